//! CUDA C to machine code by NVRTC, found beside LibTorch when the program runs. Needs no card.
use libloading::{Library, Symbol};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};

pub const SOURCE: &str = include_str!("../../../../cuda/kernels.cu");

type Create = unsafe extern "C" fn(
    *mut *mut c_void,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(*mut c_void, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int;
type Read = unsafe extern "C" fn(*mut c_void, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut *mut c_void) -> c_int;
type Count = unsafe extern "C" fn(*mut c_int) -> c_int;
type List = unsafe extern "C" fn(*mut c_int) -> c_int;
type Explain = unsafe extern "C" fn(c_int) -> *const c_char;

pub struct Nvrtc {
    library: Library,
    /// NVRTC opens it by name and does not look beside itself.
    _builtins: Option<Library>,
}

impl Nvrtc {
    pub fn open() -> Result<Self, String> {
        let candidates = candidates();
        let found = candidates.iter().find_map(|path| {
            let builtins = path.parent().and_then(|folder| first(folder, "libnvrtc-builtins"));
            // SAFETY: NVIDIA's libraries, whose initializers do nothing of ours.
            let open = |path: &Path| unsafe { Library::new(path) }.ok();
            let _builtins = builtins.as_deref().and_then(open);
            open(path).map(|library| Self { library, _builtins })
        });
        found.ok_or_else(|| {
            let tried: Vec<_> = candidates.iter().map(|path| path.display().to_string()).collect();
            format!(
                "NVRTC (package nvidia-cuda-nvrtc) was not found as {}",
                tried.join(", ")
            )
        })
    }

    /// The newest architecture that NVRTC knows and a card of compute capability `major.minor` runs, 90 for an H100: a card newer
    /// than it runs what was compiled for an earlier one of the same major version.
    fn architecture(&self, (major, minor): (i32, i32)) -> Result<i32, String> {
        let mut known = Vec::new();
        // SAFETY: signatures as in nvrtc.h; the list has as many places as were asked for.
        unsafe {
            let (count, list): (Symbol<Count>, Symbol<List>) = (
                self.symbol(c"nvrtcGetNumSupportedArchs")?,
                self.symbol(c"nvrtcGetSupportedArchs")?,
            );
            let mut n = 0;
            self.check(count(&mut n))?;
            known.resize(usize::try_from(n).unwrap_or(0), 0);
            self.check(list(known.as_mut_ptr()))?;
        }
        let runs = known
            .into_iter()
            .filter(|arch| arch / 10 == major && arch % 10 <= minor);
        runs.max()
            .ok_or_else(|| format!("this NVRTC compiles for no card of compute capability {major}.{minor}"))
    }

    /// `source` for the compute capability `major.minor`, as a cubin or as PTX.
    pub fn compile(&self, source: &str, capability: (i32, i32), form: Form) -> Result<Vec<u8>, String> {
        let source = CString::new(source).map_err(|e| e.to_string())?;
        let architecture = self.architecture(capability)?;
        let option = CString::new(format!("--gpu-architecture=sm_{architecture}")).map_err(|e| e.to_string())?;
        let options = [option.as_ptr()];
        let mut program = null_mut();
        // SAFETY: signatures as in nvrtc.h; the strings outlive the calls.
        unsafe {
            let create: Symbol<Create> = self.symbol(c"nvrtcCreateProgram")?;
            let compile: Symbol<Compile> = self.symbol(c"nvrtcCompileProgram")?;
            let destroy: Symbol<Destroy> = self.symbol(c"nvrtcDestroyProgram")?;
            self.check(create(
                &mut program,
                source.as_ptr(),
                c"kernels.cu".as_ptr(),
                0,
                null(),
                null(),
            ))?;
            let (size, read) = match form {
                Form::Cubin => (c"nvrtcGetCUBINSize", c"nvrtcGetCUBIN"),
                #[cfg(test)]
                Form::Ptx => (c"nvrtcGetPTXSize", c"nvrtcGetPTX"),
            };
            let result = match self.check(compile(program, 1, options.as_ptr())) {
                Ok(()) => self.text(program, size, read),
                Err(problem) => {
                    let log = self.text(program, c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog")?;
                    Err(format!(
                        "{problem}: {}",
                        String::from_utf8_lossy(&log).trim_end_matches('\0')
                    ))
                }
            };
            destroy(&mut program);
            result
        }
    }

    /// # Safety
    /// `T` is the function's type in nvrtc.h.
    unsafe fn symbol<T>(&self, name: &CStr) -> Result<Symbol<'_, T>, String> {
        unsafe { self.library.get(name.to_bytes_with_nul()) }.map_err(|e| e.to_string())
    }

    unsafe fn text(&self, program: *mut c_void, size: &CStr, read: &CStr) -> Result<Vec<u8>, String> {
        let mut n = 0;
        unsafe {
            let (size, read): (Symbol<Size>, Symbol<Read>) = (self.symbol(size)?, self.symbol(read)?);
            self.check(size(program, &mut n))?;
            let mut text = vec![0u8; n];
            self.check(read(program, text.as_mut_ptr().cast()))?;
            Ok(text)
        }
    }

    fn check(&self, status: c_int) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: gives a literal for any status.
        let why = unsafe {
            let explain: Symbol<Explain> = self.symbol(c"nvrtcGetErrorString")?;
            CStr::from_ptr(explain(status))
        };
        Err(format!("NVRTC: {}", why.to_string_lossy()))
    }
}

#[derive(Debug, Clone, Copy)]
pub enum Form {
    /// For cards of this capability alone; whatever the driver's version, nothing is left to translate.
    Cubin,
    /// To be read.
    #[cfg(test)]
    Ptx,
}

/// LibTorch's own folder, the PyPI packages beside it, the toolkit, and what the loader finds.
fn candidates() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(libtorch) = libtorch_folder() {
        let packages = libtorch.join("../../nvidia");
        folders.extend([packages.join("cu13/lib"), packages.join("cuda_nvrtc/lib"), libtorch]);
    }
    folders.push("/usr/local/cuda/lib64".into());
    let beside = folders.iter().filter_map(|folder| {
        first(folder, "libnvrtc.so").or_else(|| first(folder, "libnvrtc-").filter(|path| !is_builtins(path)))
    });
    let by_name = ["libnvrtc.so.13", "libnvrtc.so.12"].map(PathBuf::from);
    beside.chain(by_name).collect()
}

fn is_builtins(path: &Path) -> bool {
    path.to_string_lossy().contains("builtins")
}

/// The first file in `folder` whose name begins with `prefix`; `.alt` is the build without a sorted output.
fn first(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let mut paths: Vec<_> = fs_err::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            name.starts_with(prefix) && name.contains(".so") && !name.contains(".alt.")
        })
        .filter(|path| prefix.contains("builtins") || !is_builtins(path))
        .collect();
    paths.sort();
    paths.into_iter().next()
}

/// Where the LibTorch of this process lies.
fn libtorch_folder() -> Option<PathBuf> {
    let maps = fs_err::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("/libtorch_cpu.so"))?;
    let path = &line[line.find('/')?..];
    Path::new(path).parent().map(Path::to_path_buf)
}

#[cfg(test)]
#[allow(clippy::print_stderr, clippy::disallowed_methods)] // a skipped test says so, and none is skipped in CI
mod tests {
    use super::*;

    #[test]
    fn the_kernels_compile_for_a100_and_h100() {
        let nvrtc = match Nvrtc::open() {
            Ok(nvrtc) => nvrtc,
            Err(why) if std::env::var_os("CI").is_none() => return eprintln!("skipped: {why}"),
            Err(why) => panic!("{why}"),
        };
        for capability in [(8, 0), (9, 0)] {
            let ptx = nvrtc.compile(SOURCE, capability, Form::Ptx).unwrap();
            let ptx = String::from_utf8_lossy(&ptx);
            assert!(ptx.contains(".entry rms_norm_bf16"));
            // An array indexed by what the compiler does not know lands in slow local memory.
            assert!(!ptx.contains(".local"), "sm_{capability:?} spills");
            let cubin = nvrtc.compile(SOURCE, capability, Form::Cubin).unwrap();
            assert_eq!(&cubin[..4], b"\x7fELF");
        }
        assert_eq!(nvrtc.architecture((8, 7)), Ok(87));
        assert_eq!(nvrtc.architecture((9, 9)), Ok(90));
        assert!(nvrtc.architecture((99, 0)).unwrap_err().contains("99.0"));
        let problem = nvrtc.compile("KERNEL nonsense", (9, 0), Form::Ptx).unwrap_err();
        assert!(problem.contains("kernels.cu(1)"), "{problem}");
    }
}
