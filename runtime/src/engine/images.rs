//! Images, in CRI's words: the engine's side of the image store.
//!
//! In: CRI's image names and credentials. Out: CRI's images. What is stored how is `pintle-image`'s business.

use std::{fmt::Write as _, io::Read, sync::Arc};

use pintle_cri_api::v1 as cri;
use pintle_image::{Auth, Image, ImportOptions, Progress, PullOptions};

use super::{
    Engine, blocking, detached,
    error::{Error, Result},
};

impl Engine {
    /// The images that a filter lets through.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn images_matching(&self, filter: Option<cri::ImageFilter>) -> Result<Vec<cri::Image>> {
        let name = filter.and_then(|filter| filter.image).map(|image| image.image).unwrap_or_default();
        if !name.is_empty() {
            return Ok(self.find_image(&name).await?.iter().map(cri_image).collect());
        }
        let images = self.images.clone();
        let list = blocking(move || images.list().map_err(Error::image("listing images"))).await?;
        Ok(list.iter().map(cri_image).collect())
    }

    /// The image with a name or id; `None` when there is none.
    ///
    /// # Errors
    /// When the name is none, or the store cannot be read.
    pub async fn find_image(&self, name: &str) -> Result<Option<Image>> {
        let images = self.images.clone();
        let name = name.to_owned();
        blocking(move || match images.get(&name) {
            Err(pintle_image::Error::NotFound { .. }) => Ok(None),
            other => other.map_err(Error::image(format!("looking for image {name:?}"))),
        })
        .await
    }

    /// Pulls an image and returns its id. It goes on when the caller goes away: the next pull finds what it fetched.
    ///
    /// # Errors
    /// When the registry does not give it.
    pub async fn pull_image(
        self: &Arc<Self>,
        name: &str,
        auth: Option<Auth>,
        progress: Option<Arc<dyn Progress>>,
    ) -> Result<String> {
        let options = PullOptions { auth, registry_config: self.config.registry_config.clone(), progress };
        let (name, engine) = (name.to_owned(), Arc::clone(self));
        // Not on a blocking thread: pulls that wait for hung registries would leave none for those that unpack.
        detached(async move {
            let pulled = engine.images.pull(&name, options).await;
            let image = pulled.map_err(Error::image(format!("pulling image {name:?}")))?;
            engine.note_image_arrival();
            Ok(image.id)
        })
        .await
    }

    /// Takes the images of an archive into the store. It goes on when the caller goes away.
    ///
    /// # Errors
    /// When the archive is none, or lies about what it holds.
    pub async fn import_images(
        self: &Arc<Self>,
        archive: impl Read + Send + 'static,
        options: ImportOptions,
    ) -> Result<Vec<Image>> {
        let engine = Arc::clone(self);
        blocking(move || {
            let imported =
                engine.images.import(archive, options).map_err(Error::image("importing images"))?;
            engine.note_image_arrival();
            Ok(imported)
        })
        .await
    }

    /// Removes an image by name or id. No such image: nothing happens.
    ///
    /// # Errors
    /// When a container uses it.
    pub async fn delete_image(&self, name: &str) -> Result<()> {
        let images = self.images.clone();
        let name = name.to_owned();
        blocking(move || match images.remove(&name) {
            Err(pintle_image::Error::NotFound { .. }) | Ok(_) => Ok(()),
            Err(error) => Err(Error::image(format!("removing image {name:?}"))(error)),
        })
        .await
    }
}

/// CRI's view of an image.
#[must_use]
pub fn cri_image(image: &Image) -> cri::Image {
    let user = image.config.config().as_ref().and_then(|config| config.user().clone()).unwrap_or_default();
    let user = user.split(':').next().unwrap_or_default();
    let uid = user.parse::<i64>().ok();
    let name = image.repo_tags.first().unwrap_or(&image.id).clone();
    cri::Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: uid.map(|value| cri::Int64Value { value }),
        username: if uid.is_none() { user.to_owned() } else { String::new() },
        spec: Some(cri::ImageSpec { image: name, ..Default::default() }),
        pinned: false,
    }
}

/// The credentials of CRI's `AuthConfig`.
///
/// # Errors
/// When they cannot be decoded or are of a kind that is not supported.
pub fn auth(config: Option<cri::AuthConfig>) -> Result<Option<Auth>> {
    let Some(config) = config else { return Ok(None) };
    if !config.registry_token.is_empty() {
        return Ok(Some(Auth::Token(config.registry_token)));
    }
    if !config.username.is_empty() {
        return Ok(Some(Auth::Basic { username: config.username, password: config.password }));
    }
    if !config.auth.is_empty() {
        return decode_basic(&config.auth).map(Some);
    }
    if !config.identity_token.is_empty() {
        return Err(Error::Unimplemented(
            "identity tokens are not supported; use a registry token".to_owned(),
        ));
    }
    Ok(None)
}

/// `user:password` in base64, as in a docker configuration.
fn decode_basic(text: &str) -> Result<Auth> {
    use base64::Engine as _;
    let bad = || Error::InvalidArgument("auth: not base64 of user:password".to_owned());
    let bytes = base64::engine::general_purpose::STANDARD.decode(text.trim()).map_err(|_| bad())?;
    let text = String::from_utf8(bytes).map_err(|_| bad())?;
    let (username, password) = text.split_once(':').ok_or_else(bad)?;
    let password = password.trim_end_matches('\0').to_owned();
    Ok(Auth::Basic { username: username.to_owned(), password })
}

/// What `verbose` adds to an image's status.
#[must_use]
pub fn image_info(image: &Image) -> String {
    let config = serde_json::to_value(&image.config).unwrap_or_default();
    let chain = image.chain_ids.iter().fold(String::new(), |mut text, id| {
        // Writing to a String cannot fail.
        write!(text, "{id} ").unwrap_or(());
        text
    });
    serde_json::json!({"chainID": chain.trim(), "imageSpec": config}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_taken_in_every_form_of_cri() {
        let basic = Auth::Basic { username: "u".to_owned(), password: "p:q".to_owned() };
        let encoded = cri::AuthConfig { auth: "dTpwOnE=".to_owned(), ..Default::default() };
        assert_eq!(auth(Some(encoded)).unwrap(), Some(basic.clone()));
        let plain =
            cri::AuthConfig { username: "u".to_owned(), password: "p:q".to_owned(), ..Default::default() };
        assert_eq!(auth(Some(plain)).unwrap(), Some(basic));
        let token = cri::AuthConfig { registry_token: "t".to_owned(), ..Default::default() };
        assert_eq!(auth(Some(token)).unwrap(), Some(Auth::Token("t".to_owned())));
        assert_eq!(auth(None).unwrap(), None);
        assert!(auth(Some(cri::AuthConfig { auth: "!".to_owned(), ..Default::default() })).is_err());
    }
}
