//! `rmi`: removes images.
//!
//! In: names or ids, or "all" or "unused". Out: a line per name removed; goes on after errors.

use std::{collections::BTreeSet, io::Write};

use pintle_cri_api::v1::{Image, ImageSpec, ImageStatusRequest, RemoveImageRequest};

use crate::{
    error::{CliError, Noun},
    io::Io,
    resolve,
    session::{Call, Session},
    verbs::images,
};

#[derive(Debug, clap::Args)]
pub struct RmiArgs {
    /// Names or ids
    #[arg(value_name = "IMAGE", required_unless_present_any = ["all", "prune"])]
    images: Vec<String>,
    /// Every image
    #[arg(short, long, conflicts_with = "images")]
    all: bool,
    /// Every image that no container uses
    #[arg(short = 'q', long, conflicts_with_all = ["images", "all"])]
    prune: bool,
}

pub(crate) async fn run(args: RmiArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut errors = Vec::new();
    let wanted = if args.all {
        images::list(session, None).await?
    } else if args.prune {
        unused(session).await?
    } else {
        let mut found = Vec::new();
        for name in &args.images {
            match status(session, name).await {
                Ok(image) => found.push(image),
                Err(error) => errors.push(error),
            }
        }
        found
    };
    for image in wanted {
        match remove(session, &image).await {
            Ok(()) => report(io, &image)?,
            Err(error) => errors.push(error),
        }
    }
    CliError::collect(errors)
}

async fn status(session: &Session, name: &str) -> Result<Image, CliError> {
    let mut client = session.images().await?;
    let spec = ImageSpec { image: name.to_owned(), ..ImageSpec::default() };
    let request = ImageStatusRequest { image: Some(spec), verbose: false };
    let call = Call::quick(format!("look up image {name}")).on(Noun::Image);
    let answer = session.call(call, client.image_status(request)).await?;
    answer.image.ok_or_else(|| CliError::NotFound { noun: Noun::Image, wanted: name.to_owned() })
}

async fn unused(session: &Session) -> Result<Vec<Image>, CliError> {
    let containers = resolve::containers(session).await?;
    let used: BTreeSet<String> = containers
        .into_iter()
        .flat_map(|one| [one.image_id, one.image_ref, one.image.unwrap_or_default().image])
        .collect();
    let mut images = images::list(session, None).await?;
    images.retain(|image| {
        let names = image.repo_tags.iter().chain(&image.repo_digests);
        !image.pinned && !std::iter::once(&image.id).chain(names).any(|name| used.contains(name))
    });
    Ok(images)
}

async fn remove(session: &Session, image: &Image) -> Result<(), CliError> {
    let mut client = session.images().await?;
    let spec = ImageSpec { image: image.id.clone(), ..ImageSpec::default() };
    let name = image.repo_tags.first().unwrap_or(&image.id);
    let call = Call::slow(format!("remove image {name}")).on(Noun::Image);
    session.call(call, client.remove_image(RemoveImageRequest { image: Some(spec) })).await?;
    Ok(())
}

fn report(io: &mut Io<'_>, image: &Image) -> Result<(), CliError> {
    let names = if image.repo_tags.is_empty() { std::slice::from_ref(&image.id) } else { &image.repo_tags };
    for name in names {
        writeln!(io.out, "Deleted: {name}")?;
    }
    Ok(())
}
