//! Requests about scripts. A router that runs none says so.

use tuntap_api::control::{Code, Failure, Request, ScriptStatus};

/// Answers a request about scripts; `None` if it is about something else.
pub fn answer(request: &Request) -> Option<Result<ScriptStatus, Failure>> {
    match request {
        Request::ScriptStatus {} => Some(Ok(ScriptStatus::default())),
        Request::ScriptLoad { text } if text.is_empty() => Some(Ok(ScriptStatus::default())),
        Request::ScriptLoad { .. } | Request::ScriptCheck { .. } => {
            Some(Err(Failure { code: Code::Failed, message: "this router can't run scripts".to_owned(), line: None }))
        }
        _ => None,
    }
}
