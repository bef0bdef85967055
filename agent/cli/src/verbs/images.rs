//! `images`: lists images.
//!
//! In: an optional image name. Out: one row per tag (IMAGE, TAG, IMAGE ID, SIZE), ids, details, JSON or YAML.

use std::io::Write;

use pintle_cri_api::v1::{Image, ImageFilter, ImageSpec, ListImagesRequest, ListImagesResponse};

use crate::{
    error::{CliError, Noun},
    io::Io,
    output::{self, Ids, ListFormat, TreeFormat},
    session::{Call, Session},
    size,
    table::Table,
    verbs::image_verify::{self, ImageCommand},
};

#[derive(Debug, clap::Args)]
pub struct ImagesArgs {
    #[command(subcommand)]
    command: Option<ImageCommand>,
    /// Only this image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    image: Option<String>,
    /// Digests too
    #[arg(long)]
    digests: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    /// All tags and digests of each image
    #[arg(short, long)]
    verbose: bool,
    #[arg(short, long, default_value = "table")]
    output: ListFormat,
}

/// A name of an image, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Name {
    repository: String,
    tag: String,
    digest: String,
}

const NONE: &str = "<none>";

pub(crate) async fn run(args: ImagesArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    if let Some(ImageCommand::Verify(args)) = args.command {
        return image_verify::run(args, session, io).await;
    }
    let images = list(session, args.image.clone()).await?;
    match args.output {
        ListFormat::Table if args.quiet => {
            for image in &images {
                writeln!(io.out, "{}", image.id)?;
            }
            Ok(())
        }
        ListFormat::Table if args.verbose => images.iter().try_for_each(|image| verbose(io, image)),
        ListFormat::Table => Ok(io.out.write_all(table(&images, &args).as_bytes())?),
        ListFormat::Json => tree(io, TreeFormat::Json, images),
        ListFormat::Yaml => tree(io, TreeFormat::Yaml, images),
    }
}

/// All images, or those with a name, ordered by name.
pub(crate) async fn list(session: &Session, image: Option<String>) -> Result<Vec<Image>, CliError> {
    let mut client = session.images().await?;
    let spec = image.map(|image| ImageSpec { image, ..ImageSpec::default() });
    let request = ListImagesRequest { filter: spec.map(|spec| ImageFilter { image: Some(spec) }) };
    let call = Call::quick("list images").on(Noun::Image);
    let mut images = session.call(call, client.list_images(request)).await?.images;
    images
        .sort_by(|a, b| (&a.repo_tags, &a.repo_digests, &a.id).cmp(&(&b.repo_tags, &b.repo_digests, &b.id)));
    Ok(images)
}

fn table(images: &[Image], args: &ImagesArgs) -> String {
    let ids = Ids::from_no_trunc(args.no_trunc);
    let mut table = if args.digests {
        Table::crictl(&["IMAGE", "TAG", "DIGEST", "IMAGE ID", "SIZE"])
    } else {
        Table::crictl(&["IMAGE", "TAG", "IMAGE ID", "SIZE"])
    };
    for image in images {
        for name in names(image) {
            let mut cells = vec![name.repository, name.tag];
            if args.digests {
                cells.push(if name.digest == NONE { name.digest } else { ids.show(&name.digest) });
            }
            cells.extend([ids.show(&image.id), size::human(image.size)]);
            table.row(cells);
        }
    }
    table.render()
}

/// One name per tag, or one by digest for an image without tags.
fn names(image: &Image) -> Vec<Name> {
    let by_digest = image.repo_digests.first().and_then(|name| name.split_once('@'));
    let (repository, digest) = by_digest.unwrap_or((NONE, NONE));
    let untagged =
        Name { repository: repository.to_owned(), tag: NONE.to_owned(), digest: digest.to_owned() };
    if image.repo_tags.is_empty() {
        return vec![untagged];
    }
    image.repo_tags.iter().map(|tag| split_tag(tag, digest)).collect()
}

fn split_tag(name: &str, digest: &str) -> Name {
    let (repository, tag) = match name.rsplit_once(':') {
        // A colon before a slash belongs to a registry's port.
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        Some(_) | None => (name, NONE),
    };
    Name { repository: repository.to_owned(), tag: tag.to_owned(), digest: digest.to_owned() }
}

fn verbose(io: &mut Io<'_>, image: &Image) -> Result<(), CliError> {
    writeln!(io.out, "ID: {}", image.id)?;
    for tag in &image.repo_tags {
        writeln!(io.out, "RepoTags: {tag}")?;
    }
    for digest in &image.repo_digests {
        writeln!(io.out, "RepoDigests: {digest}")?;
    }
    writeln!(io.out, "Size: {}", size::human(image.size))?;
    if let Some(uid) = &image.uid {
        writeln!(io.out, "Uid: {}", uid.value)?;
    }
    if !image.username.is_empty() {
        writeln!(io.out, "Username: {}", image.username)?;
    }
    writeln!(io.out)?;
    Ok(())
}

fn tree(io: &mut Io<'_>, format: TreeFormat, images: Vec<Image>) -> Result<(), CliError> {
    let list = ListImagesResponse { images };
    output::tree(io, format, &output::value("runtime.v1.ListImagesResponse", &list)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_not_a_tag() {
        let name = split_tag("localhost:5000/a/b:1.0", NONE);
        assert_eq!((name.repository.as_str(), name.tag.as_str()), ("localhost:5000/a/b", "1.0"));
        let name = split_tag("localhost:5000/a/b", NONE);
        assert_eq!((name.repository.as_str(), name.tag.as_str()), ("localhost:5000/a/b", NONE));
    }

    #[test]
    fn an_image_has_a_row_per_tag_or_one_by_digest() {
        let mut image = Image {
            repo_tags: vec!["a:1".into(), "a:2".into()],
            repo_digests: vec!["a@sha256:11".into()],
            ..Image::default()
        };
        assert_eq!(names(&image).len(), 2);
        image.repo_tags.clear();
        let expected = Name { repository: "a".into(), tag: NONE.into(), digest: "sha256:11".into() };
        assert_eq!(names(&image), [expected]);
    }
}
