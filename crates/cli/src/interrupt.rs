//! Ctrl-C (and SIGTERM): the first asks to finish what is running, the next ends the program.
use crate::printer::Printer;
use std::sync::atomic::{AtomicU8, Ordering};

/// 0 = something is running that can finish early; 1 = asked to finish, or nothing to finish.
pub static STOP: AtomicU8 = AtomicU8::new(0);

/// As shells report a program ended by SIGINT.
pub const EXIT_CODE: u8 = 130;

/// `first` is called when something running is asked to finish.
pub fn install(first: impl Fn() + Send + 'static) -> anyhow::Result<()> {
    ctrlc::set_handler(move || {
        if STOP.swap(1, Ordering::SeqCst) == 0 {
            first();
        } else {
            exit();
        }
    })?;
    Ok(())
}

/// For what keeps each piece of work as it is done: says so and ends.
pub fn ends(printer: &Printer) -> anyhow::Result<()> {
    let printer = printer.clone();
    ctrlc::set_handler(move || {
        printer.talk("\nstopped; what is done is kept, and the same command goes on");
        exit();
    })?;
    Ok(())
}

/// A handler runs on its own thread and cannot return through `main`.
#[allow(clippy::exit)]
fn exit() -> ! {
    std::process::exit(EXIT_CODE.into())
}
