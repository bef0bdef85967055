//! `inspecti`: everything the runtime knows about images.
//!
//! In: images. Out: `{"status": …, …}` as JSON or YAML; a list of them for several.

use pintle_cri_api::v1::{ImageSpec, ImageStatusRequest};

use crate::{
    error::{CliError, Noun},
    io::Io,
    output,
    session::{Call, Session},
    verbs::list::{self, InspectionArgs},
};

#[derive(Debug, clap::Args)]
pub struct InspectiArgs {
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    #[command(flatten)]
    how: InspectionArgs,
}

pub(crate) async fn run(args: InspectiArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut client = session.images().await?;
    let mut values = Vec::new();
    for wanted in args.images {
        let spec = ImageSpec { image: wanted.clone(), ..ImageSpec::default() };
        let request = ImageStatusRequest { image: Some(spec), verbose: !args.how.quiet };
        let call = Call::quick(format!("inspect image {wanted}")).on(Noun::Image);
        let answer = session.call(call, client.image_status(request)).await?;
        let image = answer.image.ok_or(CliError::NotFound { noun: Noun::Image, wanted })?;
        values.push(output::inspected(output::value("runtime.v1.Image", &image)?, answer.info));
    }
    list::print_inspected(values, &args.how, io)
}
