//! `import`: takes the images of an archive into the runtime's store.
//!
//! In: a file, or `-` for stdin. Out: one line per image. CRI has no such call, so only Pintle can do it. The
//! archive is streamed; neither side ever holds it whole.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use pintle_cri_api::ext::{self, Chunk, ImportOptions, import_event::Event};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    error::CliError,
    io::Io,
    progress::{Bars, ProgressWhen},
    session::{Call, Session},
};

const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks read ahead of the runtime.
const CHUNKS_AHEAD: usize = 8;

#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// Archive: OCI layout or docker save, plain, gzip or zstd; - for stdin
    file: PathBuf,
    /// Name for the image, when the archive holds one
    #[arg(long, value_name = "NAME[:TAG]")]
    tag: Option<String>,
    /// Draw progress bars on stderr
    #[arg(long, value_name = "WHEN", default_value = "auto", num_args = 0..=1, default_missing_value = "always")]
    progress: ProgressWhen,
}

pub(crate) async fn run(args: ImportArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let (archive, size) = open(&args.file).await?;
    let options = ImportOptions { tag: args.tag.unwrap_or_default(), size };
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let reader = tokio::spawn(feed(archive, options, sender));
    let mut client = session.pintle_images().await?;
    let answer = client.import(ReceiverStream::new(receiver));
    let mut events = session.call_pintle("import images", answer).await?;
    let call = Call::slow(format!("import {}", args.file.display()));
    let mut bars = Bars::new(args.progress.draws(io.terminal));
    let mut failures = Vec::new();
    while let Some(event) = events.message().await.map_err(|status| call.error(&status))? {
        match event.event {
            Some(Event::Progress(progress)) => bars.update(&progress),
            Some(Event::Imported(image)) => report(io, &image)?,
            Some(Event::Failed(failure)) => failures.push(failed(&failure)),
            None => {}
        }
    }
    drop(bars);
    reading_result(reader, &args.file).await?;
    CliError::collect(failures)
}

async fn open(path: &Path) -> Result<(Box<dyn AsyncRead + Send + Unpin>, u64), CliError> {
    if path.as_os_str() == "-" {
        return Ok((Box::new(tokio::io::stdin()), 0));
    }
    let failed = |source| CliError::Read { path: path.to_owned(), source };
    let file = File::open(path).await.map_err(failed)?;
    let size = file.metadata().await.map_err(failed)?.len();
    Ok((Box::new(file), size))
}

/// Sends the archive piece by piece, until its end or until nobody listens any more.
async fn feed(
    mut archive: Box<dyn AsyncRead + Send + Unpin>,
    options: ImportOptions,
    sender: mpsc::Sender<Chunk>,
) -> std::io::Result<()> {
    let mut options = Some(options);
    loop {
        let mut data = Vec::with_capacity(CHUNK_BYTES);
        let read = archive.read_buf(&mut data).await?;
        if read == 0 && options.is_none() {
            return Ok(());
        }
        let chunk = Chunk { options: options.take(), data: data.into() };
        if sender.send(chunk).await.is_err() {
            return Ok(());
        }
    }
}

async fn reading_result(
    reader: tokio::task::JoinHandle<std::io::Result<()>>,
    path: &Path,
) -> Result<(), CliError> {
    let result = reader.await.map_err(std::io::Error::other).and_then(|result| result);
    result.map_err(|source| CliError::Read { path: path.to_owned(), source })
}

fn report(io: &mut Io<'_>, image: &ext::ImportedImage) -> Result<(), CliError> {
    let names = if image.repo_tags.is_empty() { "<none>".to_owned() } else { image.repo_tags.join(", ") };
    writeln!(io.out, "Imported {names} {}", image.image_id)?;
    Ok(())
}

fn failed(failure: &ext::ImportFailure) -> CliError {
    CliError::Call {
        what: format!("import {}", failure.name),
        message: failure.error.clone(),
        code: tonic::Code::Unknown,
        noun: None,
    }
}
