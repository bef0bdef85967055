//! Images, in CRI's words: the engine's side of the image store.
//!
//! In: CRI's image names and credentials. Out: CRI's images. What is stored how is `pintle-image`'s business.

use std::{collections::BTreeMap, io::Read, sync::Arc};

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
            return Ok(self.find_image(&name).await?.iter().map(|image| self.cri_image(image)).collect());
        }
        let images = self.images.clone();
        let list = blocking(move || images.list().map_err(Error::image("listing images"))).await?;
        Ok(list.iter().map(|image| self.cri_image(image)).collect())
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
        asked: Asked,
        progress: Option<Arc<dyn Progress>>,
    ) -> Result<String> {
        let options = PullOptions {
            auth: asked.auth,
            auth_server: asked.auth_server,
            annotations: asked.annotations,
            keyring: Some(Arc::clone(&self.image_sources.keyring)),
            policy: self.image_sources.policy.clone(),
            progress_deadline: self.image_sources.progress_deadline,
            registry_config: self.config.registry_config.clone(),
            progress,
        };
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
        let options = ImportOptions { policy: self.image_sources.policy.clone(), ..options };
        blocking(move || {
            let imported =
                engine.images.import(archive, options).map_err(Error::image("importing images"))?;
            engine.note_image_arrival();
            Ok(imported)
        })
        .await
    }

    /// Writes an archive of images.
    ///
    /// # Errors
    /// When there is no such image, or the writer fails; what was written then is no archive.
    pub async fn export_images(
        self: &Arc<Self>,
        names: Vec<String>,
        to: impl std::io::Write + Send + 'static,
    ) -> Result<()> {
        let images = self.images.clone();
        blocking(move || images.export(&names, to).map_err(Error::image("exporting images"))).await
    }

    /// Holds the image store against what it claims to be.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub async fn verify_images(&self, progress: Arc<dyn Progress>) -> Result<pintle_image::Verification> {
        let images = self.images.clone();
        blocking(move || images.verify(Some(&*progress)).map_err(Error::image("verifying images"))).await
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

impl Engine {
    /// CRI's view of an image.
    #[must_use]
    pub fn cri_image(&self, image: &Image) -> cri::Image {
        let names: Vec<_> =
            image.repo_tags.iter().chain(&image.repo_digests).chain([&image.id]).cloned().collect();
        let user =
            image.config.config().as_ref().and_then(|config| config.user().clone()).unwrap_or_default();
        let user = user.split(':').next().unwrap_or_default();
        let uid = user.parse::<i64>().ok();
        let spec = cri::ImageSpec {
            image: image.repo_tags.first().unwrap_or(&image.id).clone(),
            annotations: image.annotations.clone().into_iter().collect(),
            ..Default::default()
        };
        cri::Image {
            id: image.id.clone(),
            repo_tags: image.repo_tags.clone(),
            repo_digests: image.repo_digests.clone(),
            size: image.size,
            uid: uid.map(|value| cri::Int64Value { value }),
            username: if uid.is_none() { user.to_owned() } else { String::new() },
            spec: Some(spec),
            pinned: self.image_sources.is_pinned(&names),
        }
    }
}

/// How an image is to be pulled.
#[derive(Debug, Default)]
pub struct Asked {
    /// The caller's credentials.
    pub auth: Option<Auth>,
    /// The server they are for, if the caller said so.
    pub auth_server: Option<String>,
    /// Kept with the image.
    pub annotations: BTreeMap<String, String>,
}

/// What is asked for with CRI's `AuthConfig`.
///
/// # Errors
/// When the credentials cannot be decoded.
pub fn asked(config: Option<cri::AuthConfig>, annotations: BTreeMap<String, String>) -> Result<Asked> {
    let server = config.as_ref().map(|config| config.server_address.clone()).unwrap_or_default();
    let auth_server = Some(server).filter(|server| !server.is_empty());
    Ok(Asked { auth: auth(config)?, auth_server, annotations })
}

/// A registry token is meant for the registry itself and is the most particular; after that the order is containerd's.
fn auth(config: Option<cri::AuthConfig>) -> Result<Option<Auth>> {
    let Some(config) = config else { return Ok(None) };
    if !config.registry_token.is_empty() {
        return Ok(Some(Auth::Token(config.registry_token)));
    }
    if !config.username.is_empty() {
        return Ok(Some(Auth::Basic { username: config.username, password: config.password }));
    }
    if !config.identity_token.is_empty() {
        return Ok(Some(Auth::Identity(config.identity_token)));
    }
    if !config.auth.is_empty() {
        return Auth::decode(&config.auth)
            .map(Some)
            .map_err(|e| Error::InvalidArgument(format!("auth: {e}")));
    }
    Ok(None)
}

/// What `verbose` adds to an image's status.
#[must_use]
pub fn image_info(image: &Image) -> String {
    let config = serde_json::to_value(&image.config).unwrap_or_default();
    let chain = image.chain_ids.last().cloned().unwrap_or_default();
    serde_json::json!({"chainID": chain, "imageSpec": config}).to_string()
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
        let identity = cri::AuthConfig { identity_token: "i".to_owned(), ..Default::default() };
        assert_eq!(auth(Some(identity)).unwrap(), Some(Auth::Identity("i".to_owned())));
        let server = cri::AuthConfig { server_address: "a.example".to_owned(), ..Default::default() };
        assert_eq!(asked(Some(server), BTreeMap::new()).unwrap().auth_server.as_deref(), Some("a.example"));
        assert_eq!(auth(None).unwrap(), None);
        assert!(auth(Some(cri::AuthConfig { auth: "!".to_owned(), ..Default::default() })).is_err());
    }
}
