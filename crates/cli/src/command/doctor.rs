//! `tune doctor`: what this binary is, what it finds on this machine, and whether a LoRA step works here.
use crate::args::{Doctor, VERSION};
use crate::device::BACKENDS;
use crate::errors::Failure;
use crate::printer::{Printer, Style, bytes, duration, plural, row};
use crate::{End, device, environment, gpu, kernels, self_test};
use std::path::Path;
use std::time::Instant;
use tune_model::Precision;

pub fn run(args: &Doctor, printer: &Printer) -> anyhow::Result<End> {
    let style = &printer.data_style;
    printer.data(&style.bold(&format!("tune {VERSION}")))?;
    let show = |name: &str, value: String| printer.data(&row(style, name, &value));
    show("program", program())?;
    show("other tune", others())?;
    show("backends", backends())?;
    #[cfg(feature = "tch")]
    show("LibTorch", libtorch())?;
    show("GPU", gpu::report())?;
    show("CPU", cpu())?;
    show("memory", memory())?;
    show("disk", disk())?;
    show("hub cache", hub_cache())?;
    show("hub token", hub_token())?;
    show("token cache", token_cache())?;
    if args.no_self_test {
        return Ok(End::Done);
    }
    let chosen = device::choose(&args.device)?;
    args.ops.apply()?;
    kernels::report(&chosen.device, printer)?;
    let began = Instant::now();
    show("device", chosen.why.clone())?;
    match self_test::run(&chosen.device, Precision::F32) {
        Ok(outcome) => {
            printer.data(&row(style, "self-test", &passed(style, &outcome, began)))?;
            Ok(End::Done)
        }
        Err(error) => {
            printer.data(&row(style, "self-test", &style.red_bold("FAILED")))?;
            let hint = "this build does not compute right here: report it with the output above";
            Err(Failure::caused("one LoRA step on a tiny model failed", hint, error))
        }
    }
}

fn passed(style: &Style, outcome: &self_test::Outcome, began: Instant) -> String {
    let (before, after) = (outcome.before, outcome.after);
    let took = duration(began.elapsed().as_secs_f64());
    format!(
        "{}: loss {before:.4} to {after:.4} in one LoRA step, {took}",
        style.green("passed")
    )
}

fn program() -> String {
    environment::this_binary().map_or_else(|| "unknown".into(), |path| environment::short(&path))
}

/// PyTorch's torchtune and Ray install a `tune` too: which one the shell takes matters.
fn others() -> String {
    let ours = environment::this_binary();
    let found = environment::on_path("tune");
    let is_ours = |path: &Path| path.canonicalize().ok() == ours;
    let mut others = found
        .iter()
        .filter(|path| !is_ours(path))
        .map(|path| environment::short(path))
        .peekable();
    if others.peek().is_none() {
        return "none on PATH".into();
    }
    let first = if found.first().is_some_and(|path| !is_ours(path)) {
        "; it comes first on PATH"
    } else {
        ""
    };
    format!("{}{first}", others.collect::<Vec<_>>().join(", "))
}

fn backends() -> String {
    let names = BACKENDS
        .iter()
        .map(|backend| format!("{} ({})", backend.name, backend.what));
    names.collect::<Vec<_>>().join(", ")
}

/// The one this process runs with.
#[cfg(feature = "tch")]
fn libtorch() -> String {
    let (folder, version) = crate::startup::loaded();
    let version = version.unwrap_or_else(|| "of unknown version".into());
    let folder = folder.map_or_else(String::new, |folder| format!("\n{}", environment::short(&folder)));
    format!("{version}{folder}")
}

/// Processor, memory and what computes there, for reports.
pub fn machine(device: &str) -> String {
    let memory = tune_trainer::memory::total().map(|total| format!("{} of memory", bytes(total)));
    let all = [Some(cpu_name()), memory, Some(device.to_string())];
    all.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn cpu_name() -> String {
    let info = fs_err::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    name.unwrap_or(std::env::consts::ARCH).to_string()
}

fn cpu() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let simd = simd();
    let simd = if simd.is_empty() {
        "no SIMD that counts".into()
    } else {
        simd.join(", ")
    };
    format!("{}, {}\n{simd}", cpu_name(), plural(cores, "core"))
}

#[cfg(target_arch = "x86_64")]
fn simd() -> Vec<&'static str> {
    let found = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    found.iter().filter(|(_, here)| *here).map(|(name, _)| *name).collect()
}

#[cfg(target_arch = "aarch64")]
fn simd() -> Vec<&'static str> {
    use std::arch::is_aarch64_feature_detected;
    let found = [
        ("neon", is_aarch64_feature_detected!("neon")),
        ("sve", is_aarch64_feature_detected!("sve")),
        ("bf16", is_aarch64_feature_detected!("bf16")),
    ];
    found.iter().filter(|(_, here)| *here).map(|(name, _)| *name).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn simd() -> Vec<&'static str> {
    Vec::new()
}

fn memory() -> String {
    let info = fs_err::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| -> Option<u64> {
        let rest = info.lines().find_map(|line| line.strip_prefix(name))?;
        rest.trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse::<u64>()
            .ok()
            .map(|kib| kib * 1024)
    };
    let (Some(total), Some(free)) = (field("MemTotal"), field("MemAvailable")) else {
        return "unknown".into();
    };
    // A container may allow less than the machine has.
    let limit = fs_err::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let limit = limit
        .filter(|limit: &u64| *limit < total)
        .map(|limit| format!(", limited to {}", bytes(limit)));
    format!("{} free of {}{}", bytes(free), bytes(total), limit.unwrap_or_default())
}

#[cfg(unix)]
fn disk() -> String {
    // SAFETY: the path ends in NUL, and `stats` is plain numbers that the call fills.
    let (code, stats) = unsafe {
        let mut stats: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(c".".as_ptr(), &mut stats), stats)
    };
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)] // the widths differ between systems
    let size = |blocks| bytes(u64::from(blocks) * stats.f_frsize as u64);
    if code == 0 {
        format!("{} free of {} here", size(stats.f_bavail), size(stats.f_blocks))
    } else {
        "unknown".into()
    }
}

#[cfg(not(unix))]
fn disk() -> String {
    "unknown".into()
}

fn hub_cache() -> String {
    let Some(cache) = environment::hub_cache() else {
        return "none: there is no home folder".into();
    };
    let place = environment::short(&cache);
    match fs_err::read_dir(&cache) {
        Ok(entries) => {
            let model = |entry: &fs_err::DirEntry| entry.file_name().to_string_lossy().starts_with("models--");
            format!("{place}, {}", plural(entries.flatten().filter(model).count(), "model"))
        }
        Err(_) => format!("{place}, not there yet"),
    }
}

/// Where the token is, never the token.
fn hub_token() -> String {
    environment::hub_token().map_or_else(
        || "none (gated models need HF_TOKEN)".into(),
        |(_, place)| format!("found in {place}"),
    )
}

fn token_cache() -> String {
    environment::token_cache().map_or_else(
        || "none: there is no home folder".into(),
        |path| environment::short(&path),
    )
}
