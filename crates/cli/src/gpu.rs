//! What this machine and this build have for computing on an NVIDIA GPU, and what is missing.
#[cfg(feature = "tch")]
use crate::printer::bytes;
use std::path::Path;

/// What was found. The judgement over it needs no GPU to be tested.
#[derive(Debug, Clone, Default)]
struct Found {
    /// Of the kernel's driver, such as `580.95.05`.
    driver: Option<String>,
    /// Of cards the driver knows, by name.
    cards: Vec<String>,
    /// `13.0`, of the LibTorch that is loaded; `None` if it computes on the CPU alone.
    cuda: Option<String>,
    /// GPUs LibTorch can use, each described.
    usable: Vec<String>,
}

/// The driver, the cards, and what stands between them and this program; a line each.
pub fn report() -> String {
    let found = find();
    let mut lines = Vec::new();
    if let Some(driver) = &found.driver {
        let cards = match &found.cards[..] {
            [] => "no card".into(),
            cards => cards.join(", "),
        };
        lines.push(format!("driver {driver}, {cards}"));
    }
    lines.push(judge(&found));
    lines.join("\n")
}

/// The driver's branch that a release of CUDA needs, by its major version: table 2 of the CUDA compatibility guide.
const NEEDED: &[(&str, u32)] = &[("12", 525), ("13", 580)];

fn judge(found: &Found) -> String {
    let Some(driver) = &found.driver else {
        // Some systems hide the driver's files and let it be used.
        return match &found.usable[..] {
            [] => "none: no NVIDIA driver is loaded".into(),
            usable => usable.join("\n"),
        };
    };
    if !cfg!(feature = "tch") {
        return "this build computes on the CPU; one with `--features tch` uses GPUs".into();
    }
    let Some(cuda) = &found.cuda else {
        return "this LibTorch computes on the CPU alone: install the PyTorch wheel with CUDA (docs/install-gpu.md)"
            .into();
    };
    let branch: Option<u32> = driver.split('.').next().and_then(|branch| branch.parse().ok());
    let major = cuda.split('.').next().unwrap_or(cuda);
    let needed = NEEDED.iter().find(|(of, _)| *of == major).map(|(_, needed)| *needed);
    match (branch, needed, &found.usable[..]) {
        (Some(branch), Some(needed), _) if branch < needed => {
            format!("driver {driver} is too old for this LibTorch's CUDA {cuda}: update it to {needed} or later")
        }
        (_, _, []) => "LibTorch sees none: is it hidden by CUDA_VISIBLE_DEVICES, and does `nvidia-smi` list it?".into(),
        (_, _, usable) => usable.join("\n"),
    }
}

fn find() -> Found {
    let read = |path: &Path| fs_err::read_to_string(path).unwrap_or_default();
    let cards = fs_err::read_dir("/proc/driver/nvidia/gpus").map_or_else(
        |_| Vec::new(),
        |entries| {
            let cards = entries.flatten().map(|entry| read(&entry.path().join("information")));
            cards.filter_map(|text| card(&text)).collect()
        },
    );
    Found {
        driver: driver(&read(Path::new("/proc/driver/nvidia/version"))),
        cards,
        ..of_libtorch()
    }
}

#[cfg(feature = "tch")]
fn of_libtorch() -> Found {
    Found {
        cuda: crate::startup::loaded().1.and_then(|version| cuda(&version)),
        usable: (0..tune_model::libtorch::cuda_devices()).map(describe).collect(),
        ..Found::default()
    }
}

#[cfg(feature = "tch")]
fn describe(index: usize) -> String {
    use tune_model::libtorch::{gpu_memory, gpu_name};
    let (name, (major, minor)) = match gpu_name(index) {
        Ok(known) => known,
        Err(why) => return format!("cuda:{index}: {why}"),
    };
    let memory = gpu_memory(index).map(|memory| format!(", {} free of {}", bytes(memory.free), bytes(memory.total)));
    format!(
        "cuda:{index}: {name}, capability {major}.{minor}{}",
        memory.unwrap_or_default()
    )
}

#[cfg(not(feature = "tch"))]
fn of_libtorch() -> Found {
    Found::default()
}

/// `13.0` of `2.11.0+cu130`.
#[cfg_attr(not(feature = "tch"), allow(dead_code))]
fn cuda(version: &str) -> Option<String> {
    let digits = version.split_once("+cu")?.1;
    let (major, minor) = digits.split_at_checked(digits.len().checked_sub(1)?)?;
    Some(format!("{major}.{minor}"))
}

/// `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue …`, in the words of the open module too.
fn driver(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("NVRM version"))?;
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    line.split_whitespace().find(is_version).map(str::to_string)
}

fn card(information: &str) -> Option<String> {
    let line = information.lines().find(|line| line.starts_with("Model:"))?;
    Some(line.trim_start_matches("Model:").trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_tells_its_version_in_two_ways() {
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23 10:11:16 UTC 2025\nGCC version: 12.2.0";
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release Build";
        assert_eq!(driver(closed).as_deref(), Some("580.95.05"));
        assert_eq!(driver(open).as_deref(), Some("570.133.20"));
        assert_eq!(driver(""), None);
        assert_eq!(
            card("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 5").as_deref(),
            Some("NVIDIA H100 80GB HBM3")
        );
        assert_eq!(cuda("2.11.0+cu130").as_deref(), Some("13.0"));
        assert_eq!(cuda("2.11.0+cpu"), None);
    }

    #[cfg(feature = "tch")]
    #[test]
    fn each_thing_that_can_be_missing_is_named() {
        let good = Found {
            driver: Some("580.95.05".into()),
            cards: vec!["NVIDIA H100".into()],
            cuda: Some("13.0".into()),
            usable: vec!["cuda:0: NVIDIA H100".into()],
        };
        assert_eq!(judge(&good), "cuda:0: NVIDIA H100");
        let without = |change: fn(&mut Found)| {
            let mut found = good.clone();
            change(&mut found);
            judge(&found)
        };
        let no_driver = |f: &mut Found| (f.driver, f.usable) = (None, Vec::new());
        assert!(without(no_driver).contains("no NVIDIA driver"));
        assert!(without(|f| f.cuda = None).contains("CPU alone"));
        assert!(without(|f| f.driver = Some("570.1".into())).contains("580 or later"));
        assert!(without(|f| f.usable.clear()).contains("CUDA_VISIBLE_DEVICES"));
    }
}
