//! CUDA's driver, opened when first asked for: the kernels on a card, and what the card is.
use super::launch::{Grid, Launcher};
use super::nvrtc::{Form, Nvrtc, SOURCE};
use super::shim;
use libloading::Library;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

type Status = c_int;
type Ptr = *mut c_void;

/// The functions, as in cuda.h.
struct Driver {
    get_device: unsafe extern "C" fn(*mut c_int, c_int) -> Status,
    get_name: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> Status,
    get_attribute: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> Status,
    retain_context: unsafe extern "C" fn(*mut Ptr, c_int) -> Status,
    push_context: unsafe extern "C" fn(Ptr) -> Status,
    pop_context: unsafe extern "C" fn(*mut Ptr) -> Status,
    memory: unsafe extern "C" fn(*mut usize, *mut usize) -> Status,
    load: unsafe extern "C" fn(*mut Ptr, *const c_void) -> Status,
    function: unsafe extern "C" fn(*mut Ptr, Ptr, *const c_char) -> Status,
    #[allow(clippy::type_complexity)] // CUDA's
    launch: unsafe extern "C" fn(
        Ptr,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        Ptr,
        *mut Ptr,
        *mut Ptr,
    ) -> Status,
    explain: unsafe extern "C" fn(Status, *mut *const c_char) -> Status,
    _library: Library,
}

const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;

fn driver() -> Result<&'static Driver, String> {
    static DRIVER: OnceLock<Result<Driver, String>> = OnceLock::new();
    DRIVER.get_or_init(Driver::open).as_ref().map_err(Clone::clone)
}

impl Driver {
    fn open() -> Result<Self, String> {
        // SAFETY: NVIDIA's library; the types above are those of cuda.h.
        unsafe {
            let library = Library::new("libcuda.so.1").map_err(|e| format!("no NVIDIA driver: {e}"))?;
            macro_rules! get {
                ($name:literal) => {
                    *library
                        .get(concat!($name, "\0").as_bytes())
                        .map_err(|e| e.to_string())?
                };
            }
            let init: unsafe extern "C" fn(c_uint) -> Status = get!("cuInit");
            let driver = Self {
                get_device: get!("cuDeviceGet"),
                get_name: get!("cuDeviceGetName"),
                get_attribute: get!("cuDeviceGetAttribute"),
                retain_context: get!("cuDevicePrimaryCtxRetain"),
                push_context: get!("cuCtxPushCurrent_v2"),
                pop_context: get!("cuCtxPopCurrent_v2"),
                memory: get!("cuMemGetInfo_v2"),
                load: get!("cuModuleLoadData"),
                function: get!("cuModuleGetFunction"),
                launch: get!("cuLaunchKernel"),
                explain: get!("cuGetErrorString"),
                _library: library,
            };
            driver.check(init(0))?;
            Ok(driver)
        }
    }

    fn check(&self, status: Status) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        let mut text = std::ptr::null();
        // SAFETY: gives a literal, or null for a status it does not know.
        let known = unsafe { (self.explain)(status, &mut text) } == 0 && !text.is_null();
        // SAFETY: as above.
        let text = known.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy());
        Err(format!("CUDA error {status}: {}", text.unwrap_or("unknown".into())))
    }
}

/// A card, in the context LibTorch uses. Its kernels are compiled when first asked for.
pub struct Card {
    index: i32,
    device: c_int,
    context: usize,
    functions: OnceLock<Result<Mutex<Functions>, String>>,
}

struct Functions {
    module: usize,
    by_name: BTreeMap<String, usize>,
}

impl Card {
    /// Number `index` of those this process may see.
    pub fn get(index: usize) -> Result<Arc<Self>, String> {
        static CARDS: Mutex<BTreeMap<usize, Arc<Card>>> = Mutex::new(BTreeMap::new());
        let mut cards = CARDS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(card) = cards.get(&index) {
            return Ok(card.clone());
        }
        let card = Arc::new(Self::open(index)?);
        cards.insert(index, card.clone());
        Ok(card)
    }

    fn open(index: usize) -> Result<Self, String> {
        let driver = driver()?;
        let index = i32::try_from(index).map_err(|e| e.to_string())?;
        let (mut device, mut context) = (0, null_mut());
        // SAFETY: as cuda.h has them.
        unsafe {
            driver.check((driver.get_device)(&mut device, index))?;
            driver.check((driver.retain_context)(&mut context, device))?;
        }
        Ok(Self {
            index,
            device,
            context: context as usize,
            functions: OnceLock::new(),
        })
    }

    pub fn name(&self) -> Result<String, String> {
        let driver = driver()?;
        let mut name = [0 as c_char; 128];
        // SAFETY: CUDA writes a string of at most that length.
        unsafe {
            driver.check((driver.get_name)(name.as_mut_ptr(), name.len() as c_int, self.device))?;
            Ok(CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned())
        }
    }

    /// Compute capability, (9, 0) for an H100.
    pub fn capability(&self) -> Result<(i32, i32), String> {
        let driver = driver()?;
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: as cuda.h has it.
            driver.check(unsafe { (driver.get_attribute)(&mut value, which, self.device) })?;
            Ok::<_, String>(value)
        };
        Ok((attribute(CAPABILITY_MAJOR)?, attribute(CAPABILITY_MINOR)?))
    }

    /// Bytes `(free, total)`.
    pub fn memory(&self) -> Result<(u64, u64), String> {
        self.within(|driver| {
            let (mut free, mut total) = (0, 0);
            // SAFETY: as cuda.h has it.
            driver.check(unsafe { (driver.memory)(&mut free, &mut total) })?;
            Ok((free as u64, total as u64))
        })
    }

    /// Runs `f` with this card's context current, and LibTorch's idea of the current card untouched.
    fn within<T>(&self, f: impl FnOnce(&Driver) -> Result<T, String>) -> Result<T, String> {
        let driver = driver()?;
        // SAFETY: the context is retained for the life of the process.
        driver.check(unsafe { (driver.push_context)(self.context as Ptr) })?;
        let result = f(driver);
        let mut popped = null_mut();
        // SAFETY: pushed above.
        let ended = driver.check(unsafe { (driver.pop_context)(&mut popped) });
        result.and_then(|made| ended.map(|()| made))
    }

    fn compile(&self) -> Result<Mutex<Functions>, String> {
        let code = Nvrtc::open()?.compile(SOURCE, self.capability()?, Form::Cubin)?;
        let module = self.within(|driver| {
            let mut module = null_mut();
            // SAFETY: a whole cubin.
            driver.check(unsafe { (driver.load)(&mut module, code.as_ptr().cast()) })?;
            Ok(module as usize)
        })?;
        Ok(Mutex::new(Functions {
            module,
            by_name: BTreeMap::new(),
        }))
    }

    fn function(&self, driver: &Driver, name: &str) -> Result<Ptr, String> {
        let functions = self
            .functions
            .get_or_init(|| self.compile())
            .as_ref()
            .map_err(Clone::clone)?;
        let mut functions = functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.by_name.get(name) {
            return Ok(*function as Ptr);
        }
        let c_name = CString::new(name).map_err(|e| e.to_string())?;
        let mut function = null_mut();
        // SAFETY: the module is never unloaded.
        driver.check(unsafe { (driver.function)(&mut function, functions.module as Ptr, c_name.as_ptr()) })?;
        functions.by_name.insert(name.into(), function as usize);
        Ok(function)
    }
}

impl Launcher for Card {
    unsafe fn start(&self, kernel: &str, grid: Grid, addresses: &mut [Ptr]) -> Result<(), String> {
        let stream = shim::current_stream(self.index)?;
        self.within(|driver| {
            let function = self.function(driver, kernel)?;
            let args = addresses.as_mut_ptr();
            // SAFETY: the caller's promise.
            driver.check(unsafe {
                (driver.launch)(
                    function,
                    grid.blocks,
                    1,
                    1,
                    grid.threads,
                    1,
                    1,
                    0,
                    stream,
                    args,
                    null_mut(),
                )
            })
        })
    }
}
