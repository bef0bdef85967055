//! CheckpointContainer: the one call that may be missing, with a reason.

use super::{NOBODY, prelude::*};

pub(super) fn cases() -> Vec<Case> {
    vec![case(
        "a checkpoint is made, or refused in words",
        "checkpoints a container; a runtime without says Unimplemented",
        |run: Run| async move {
            let location = run.dir("checkpoint")?.join("x.tar").to_string_lossy().into_owned();
            let request =
                v1::CheckpointContainerRequest { container_id: NOBODY.to_owned(), location, timeout: 1 };
            let codes = [Code::Unimplemented, Code::NotFound];
            let words = refused(run.cri().checkpoint_container(request).await, &codes)?;
            ensure!(words.len() > 10, "the reason is {words:?}");
            Ok(())
        },
    )]
}
