//! One verb per file: its arguments and its `run`; `list` is what several share.

pub(crate) mod completion;
pub(crate) mod create;
pub(crate) mod exec;
pub(crate) mod export;
pub(crate) mod get;
pub(crate) mod image_verify;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod inspecti;
pub(crate) mod inspectp;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod pods;
pub(crate) mod ps;
pub(crate) mod pull;
pub(crate) mod rm;
pub(crate) mod rmi;
pub(crate) mod rmp;
pub(crate) mod runp;
pub(crate) mod start;
pub(crate) mod stop;
pub(crate) mod stopp;
pub(crate) mod version;
pub(crate) mod waterfall;
