//! `export`: writes images into an archive that skopeo, `docker load`, `ctr import` and `pintle import` read.
//!
//! In: names or ids. Out: a file, or stdout if that is no terminal. CRI has no such call, so only Pintle can do it. The file
//! gets its name when it is whole.

use std::{
    ffi::OsString,
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use pintle_cri_api::ext::{Chunk, ExportRequest};
use tonic::Streaming;

use crate::{
    error::{CliError, Noun},
    io::Io,
    session::{Call, Session},
};

#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// The archive; - for stdout
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub(crate) async fn run(args: ExportArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let is_stdout = args.output.as_os_str() == "-";
    if is_stdout && std::io::stdout().is_terminal() {
        let reason = "an archive is not for a terminal; name a file".to_owned();
        return Err(CliError::Argument { flag: "--output", reason });
    }
    let call = Call::slow(format!("export {}", args.images.join(", "))).on(Noun::Image);
    let mut client = session.pintle_images().await?;
    let request = ExportRequest { images: args.images };
    let chunks = session.call_pintle("export images", client.export(request)).await?;
    if is_stdout {
        return copy(chunks, &call, &mut |data| Ok(io.out.write_all(data)?)).await;
    }
    let written = write_file(chunks, &call, &args.output).await;
    if written.is_ok() {
        writeln!(io.err, "Exported to {}", args.output.display())?;
    }
    written
}

async fn write_file(chunks: Streaming<Chunk>, call: &Call, path: &Path) -> Result<(), CliError> {
    let mut temporary = OsString::from(path);
    temporary.push(".part");
    let temporary = PathBuf::from(temporary);
    let failed = |source| CliError::Write { path: path.to_owned(), source };
    let mut file = std::fs::File::create(&temporary).map_err(failed)?;
    let mut write = |data: &[u8]| file.write_all(data).map_err(failed);
    let copied = copy(chunks, call, &mut write).await;
    let named = copied.and_then(|()| std::fs::rename(&temporary, path).map_err(failed));
    if named.is_err() {
        // What failed is told already.
        drop(std::fs::remove_file(&temporary));
    }
    named
}

async fn copy(
    mut chunks: Streaming<Chunk>,
    call: &Call,
    write: &mut dyn FnMut(&[u8]) -> Result<(), CliError>,
) -> Result<(), CliError> {
    while let Some(chunk) = chunks.message().await.map_err(|status| call.error(&status))? {
        write(&chunk.data)?;
    }
    Ok(())
}
