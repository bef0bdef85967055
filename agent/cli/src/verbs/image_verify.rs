//! `image verify`: holds the runtime's image store against what it claims to be.
//!
//! In: nothing. Out: a line for each damage and what to do about it; an error if there was one. CRI has no such call, so only
//! Pintle can do it.

use std::{collections::BTreeSet, io::Write};

use pintle_cri_api::ext::{Damage, Verified, VerifyRequest, verify_event::Event};

use crate::{
    error::CliError,
    io::Io,
    progress::{Bars, ProgressWhen},
    session::{Call, Session},
    size,
};

/// What `pintle image` does besides listing.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ImageCommand {
    /// Check every blob against its digest and every unpacked layer against its blob
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// Draw progress bars on stderr
    #[arg(long, value_name = "WHEN", default_value = "auto", num_args = 0..=1, default_missing_value = "always")]
    progress: ProgressWhen,
}

pub(crate) async fn run(args: VerifyArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut client = session.pintle_images().await?;
    let answer = client.verify(VerifyRequest {});
    let mut events = session.call_pintle("verify images", answer).await?;
    let call = Call::slow("verify images");
    let mut bars = Bars::new(args.progress.draws(io.terminal));
    let mut damages = Vec::new();
    while let Some(event) = events.message().await.map_err(|status| call.error(&status))? {
        match event.event {
            Some(Event::Progress(progress)) => bars.update(&progress),
            Some(Event::Damage(damage)) => damages.push(damage),
            Some(Event::Verified(verified)) => {
                drop(bars);
                return report(&verified, &damages, io);
            }
            None => {}
        }
    }
    Err(CliError::Answer { what: "verify", reason: "the stream ended before the result".to_owned() })
}

fn report(verified: &Verified, damages: &[Damage], io: &mut Io<'_>) -> Result<(), CliError> {
    for damage in damages {
        writeln!(io.out, "{}: {}", damage.what, damage.reason)?;
        let images = if damage.images.is_empty() { "no image".to_owned() } else { damage.images.join(", ") };
        writeln!(io.out, "  needed by {images}")?;
    }
    let images: BTreeSet<_> = damages.iter().flat_map(|damage| &damage.images).collect();
    for image in &images {
        writeln!(io.out, "To mend it: pintle rmi {image} && pintle pull {image}")?;
    }
    let Verified { images, blobs, bytes, layers } = verified;
    let bytes = size::human(*bytes);
    writeln!(io.out, "Looked at {images} images: {blobs} blobs ({bytes}), {layers} unpacked layers")?;
    match damages.len() {
        0 => Ok(()),
        n => Err(CliError::Damaged { damages: n }),
    }
}
