//! stub
use crate::{Error, Image, PullOptions, store::Store};
use std::sync::Arc;
pub(crate) async fn pull(_s: &Arc<Store>, _n: &str, _o: &PullOptions) -> Result<Image, Error> {
    Err(Error::unsupported("pull", "being built"))
}
