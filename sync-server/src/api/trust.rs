//! `GET /v1/trust/{root|targets}`: the newest signed document of a role, as it was signed.
//!
//! Invariant: the bytes are the operator's, unchanged. Not here: accepting documents (`releases`).

use axum::{
    extract::{Path, State},
    http::header::CONTENT_TYPE,
    response::IntoResponse,
};

use super::{control::Control, problem::Problem};

pub async fn newest(State(control): State<Control>, Path(role): Path<String>) -> Result<impl IntoResponse + use<>, Problem> {
    let found = match role.as_str() {
        "root" | "targets" => control.db.newest_trust(&role).await?,
        _ => None,
    };
    let document = found.ok_or_else(|| Problem::not_found("only root and targets are handed out"))?;
    Ok(([(CONTENT_TYPE, "application/json")], document.bytes))
}
