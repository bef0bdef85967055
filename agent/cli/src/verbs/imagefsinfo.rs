//! `imagefsinfo`: what images and writable layers occupy.
//!
//! In: nothing. Out: the file systems of both, as JSON, YAML or a table.

use std::io::Write as _;

use pintle_cri_api::v1::{FilesystemUsage, ImageFsInfoRequest, UInt64Value};
use serde_json::json;

use crate::{
    error::CliError,
    io::Io,
    output::{self, ListFormat, TreeFormat},
    session::{Call, Session},
    size,
    table::Table,
};

#[derive(Debug, clap::Args)]
pub struct ImagefsinfoArgs {
    #[arg(short, long, default_value = "json")]
    output: ListFormat,
}

pub(crate) async fn run(args: ImagefsinfoArgs, session: &Session, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut client = session.images().await?;
    let call = Call::quick("ask for the file systems of images");
    let answer = session.call(call, client.image_fs_info(ImageFsInfoRequest {})).await?;
    let format = match args.output {
        ListFormat::Json => TreeFormat::Json,
        ListFormat::Yaml => TreeFormat::Yaml,
        ListFormat::Table => {
            let mut table = Table::crictl(&["TYPE", "MOUNTPOINT", "USED", "INODES", "MEASURED"]);
            answer.image_filesystems.iter().for_each(|usage| table.row(row("images", usage)));
            answer.container_filesystems.iter().for_each(|usage| table.row(row("containers", usage)));
            io.out.write_all(table.render().as_bytes())?;
            return Ok(());
        }
    };
    let status = output::value("runtime.v1.ImageFsInfoResponse", &answer)?;
    output::tree(io, format, &json!({ "status": status }))
}

fn row(kind: &str, usage: &FilesystemUsage) -> Vec<String> {
    let number = |value: Option<UInt64Value>| value.map(|value| value.value);
    let unknown = || "-".to_owned();
    vec![
        kind.to_owned(),
        usage.fs_id.as_ref().map_or_else(unknown, |id| id.mountpoint.clone()),
        number(usage.used_bytes).map_or_else(unknown, size::human),
        number(usage.inodes_used).map_or_else(unknown, |inodes| inodes.to_string()),
        output::rfc3339(usage.timestamp),
    ]
}
