//! `pull`: pulls an image from its registry.
//!
//! In: an image name, optional credentials and pod file. Out: the image's id; on a terminal, bars while it lasts,
//! when the runtime is Pintle (CRI's own call tells nothing until it is done).

use std::{collections::BTreeMap, io::Write, path::PathBuf};

use pintle_cri_api::{
    ext,
    v1::{AuthConfig, ImageSpec, PullImageRequest},
};

use crate::{
    config,
    error::{CliError, Noun},
    filter,
    io::Io,
    progress::{Bars, ProgressWhen},
    session::{Call, Session},
};

#[derive(Debug, clap::Args)]
pub struct PullArgs {
    /// Image to pull
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    image: String,
    #[command(flatten)]
    auth: AuthArgs,
    /// Pod file (JSON or YAML) whose context the image is pulled in
    #[arg(long, value_name = "FILE")]
    pod_config: Option<PathBuf>,
    /// Annotation for the image; may be given several times
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter::label)]
    annotation: Vec<(String, String)>,
    /// Draw progress bars on stderr
    #[arg(long, value_name = "WHEN", default_value = "auto", num_args = 0..=1, default_missing_value = "always")]
    progress: ProgressWhen,
}

/// Credentials for a registry.
#[derive(Debug, clap::Args)]
pub(crate) struct AuthArgs {
    /// Credentials for the registry
    #[arg(long, value_name = "USER[:PASSWORD]", conflicts_with = "auth", hide_env_values = true)]
    creds: Option<String>,
    /// base64 of user:password, as in a docker configuration
    #[arg(long, value_name = "BASE64")]
    auth: Option<String>,
}

impl AuthArgs {
    pub(crate) fn config(&self) -> Option<AuthConfig> {
        if let Some(auth) = &self.auth {
            return Some(AuthConfig { auth: auth.trim().to_owned(), ..AuthConfig::default() });
        }
        let creds = self.creds.as_ref()?;
        let (username, password) = creds.split_once(':').unwrap_or((creds, ""));
        let (username, password) = (username.to_owned(), password.to_owned());
        Some(AuthConfig { username, password, ..AuthConfig::default() })
    }
}

pub(crate) async fn run(args: PullArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let plain = args.pod_config.is_none() && args.annotation.is_empty();
    let auth = args.auth.config();
    let mut image_ref = None;
    if plain && args.progress.draws(io.terminal) {
        image_ref = with_bars(&args.image, auth.clone(), session).await?;
    }
    let image_ref = match image_ref {
        Some(image_ref) => image_ref,
        None => by_cri(args, auth, session).await?,
    };
    writeln!(io.out, "Image is up to date for {image_ref}")?;
    Ok(())
}

async fn by_cri(args: PullArgs, auth: Option<AuthConfig>, session: &Session) -> Result<String, CliError> {
    let sandbox_config = args.pod_config.as_deref().map(config::pod).transpose()?;
    let annotations: BTreeMap<_, _> = args.annotation.into_iter().collect();
    pull(session, ImageSpec { image: args.image, annotations, ..ImageSpec::default() }, auth, sandbox_config)
        .await
}

/// Pulls with CRI's own call; the id of the image.
pub(crate) async fn pull(
    session: &Session,
    image: ImageSpec,
    auth: Option<AuthConfig>,
    sandbox_config: Option<pintle_cri_api::v1::PodSandboxConfig>,
) -> Result<String, CliError> {
    let mut client = session.images().await?;
    let call = Call::slow(format!("pull {}", image.image)).on(Noun::RemoteImage);
    let request = PullImageRequest { image: Some(image), auth, sandbox_config };
    Ok(session.call(call, client.pull_image(request)).await?.image_ref)
}

/// Pulls with Pintle's extension. Nothing when the runtime is not Pintle.
async fn with_bars(
    image: &str,
    auth: Option<AuthConfig>,
    session: &Session,
) -> Result<Option<String>, CliError> {
    let call = Call::slow(format!("pull {image}")).on(Noun::RemoteImage);
    let request = ext::PullRequest { image: image.to_owned(), auth: auth.map(extension_auth) };
    let mut client = session.pintle_images().await?;
    let mut events = match session.call_pintle("pull with progress", client.pull(request)).await {
        Ok(events) => events,
        Err(CliError::NotPintle { .. }) => return Ok(None),
        Err(CliError::Call { message, code, .. }) => {
            return Err(call.error(&tonic::Status::new(code, message)));
        }
        Err(other) => return Err(other),
    };
    let mut bars = Bars::new(true);
    while let Some(event) = events.message().await.map_err(|status| call.error(&status))? {
        match event.event {
            Some(ext::pull_event::Event::Progress(progress)) => bars.update(&progress),
            Some(ext::pull_event::Event::ImageRef(image_ref)) => return Ok(Some(image_ref)),
            None => {}
        }
    }
    Err(CliError::Answer { what: "pull", reason: "the stream ended without an image".to_owned() })
}

fn extension_auth(auth: AuthConfig) -> ext::RegistryAuth {
    ext::RegistryAuth {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        server_address: auth.server_address,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_split_at_the_first_colon() {
        let args = AuthArgs { creds: Some("ann:a:b".into()), auth: None };
        let config = args.config().unwrap();
        assert_eq!((config.username.as_str(), config.password.as_str()), ("ann", "a:b"));
        assert_eq!(AuthArgs { creds: None, auth: None }.config(), None);
    }
}
