//! Kernels of a device are checked before they are trusted, and switched off by name.
use crate::args::Ops;
use crate::errors::Failure;
use tune_model::ops::switch;

impl Ops {
    /// Switches off what is to be done without.
    pub fn apply(&self) -> anyhow::Result<()> {
        let judged = switch::off_by_user(&self.ops);
        switch::news(); // to the one who asked for it
        judged.map_err(|name| {
            let known: Vec<_> = switch::NAMES.iter().map(|name| format!("no-{name}")).collect();
            let hint = format!("`reference`, or any of {}", known.join(", "));
            Failure::error(format!("--ops has no `{name}`"), hint)
        })
    }
}

#[cfg(feature = "tch")]
pub use with_libtorch::*;

#[cfg(feature = "tch")]
mod with_libtorch {
    use crate::printer::{Printer, row};
    use burn::tensor::{DType, Device};
    use tune_model::libtorch;
    use tune_model::ops::switch;
    use tune_model::selfcheck::{self, Check};

    /// On a GPU, before the first step: a line for each kernel that computes something else than its reference.
    pub fn check(device: &Device, printer: &Printer) {
        if libtorch::gpu_index(device).is_none() {
            return;
        }
        if let Some(why) = libtorch::why_no_kernels() {
            printer.warning(&format!("ATen's operations alone are used on the GPU: {why}"));
        }
        for wrong in selfcheck::run(device).iter().filter(|check| !check.ok()) {
            printer.warning(&format!(
                "{} is off: it computes something else than its reference",
                line(wrong)
            ));
        }
        switch::news(); // told here, with what was asked for
        for (name, why) in switch::reasons() {
            if !why.starts_with("off by") {
                printer.talk(&format!("kernel {name} is off: {why}"));
            }
        }
    }

    /// For `tune doctor`: what was found of each, on LibTorch.
    pub fn report(device: &Device, printer: &Printer) -> anyhow::Result<()> {
        let on_libtorch = libtorch::gpu_index(device).is_some() || libtorch::is_cpu(device);
        let kernels = libtorch::why_no_kernels().unwrap_or("kernels built in");
        printer.data(&row(&printer.data_style, "CUDA", kernels))?;
        if on_libtorch {
            let lines: Vec<_> = selfcheck::run(device).iter().map(line).collect();
            let off = switch::reasons();
            let off = off.iter().map(|(name, why)| format!("{name}: off, {why}"));
            let lines: Vec<_> = lines.into_iter().chain(off).collect();
            printer.data(&row(&printer.data_style, "kernels", &lines.join("\n")))?;
        }
        Ok(())
    }

    fn line(check: &Check) -> String {
        let verdict = if check.ok() { "ok" } else { "WRONG" };
        let dtype = if check.dtype == DType::F32 { "f32" } else { "bf16" };
        format!(
            "{} {dtype}: {verdict}, off by {:.1e} of at most {:.0e} ({}), {:.0} µs",
            check.name, check.error, check.tolerance, check.variant, check.micros
        )
    }
}

#[cfg(not(feature = "tch"))]
pub fn check(_: &burn::tensor::Device, _: &crate::printer::Printer) {}
#[cfg(not(feature = "tch"))]
pub fn report(_: &burn::tensor::Device, _: &crate::printer::Printer) -> anyhow::Result<()> {
    Ok(())
}
