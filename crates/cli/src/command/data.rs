//! placeholder
pub fn run(_: &crate::args::Data, _: &crate::printer::Printer) -> anyhow::Result<crate::End> { Ok(crate::End::Done) }
