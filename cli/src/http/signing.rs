//! Answers are signed for whoever sends a number to be signed with them ([`signed`]).

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use systemimager_engine::remote::LARGEST_TEXT;
use systemimager_engine::signed::{self, Answer};

use super::Shared;
use super::routes::REPORT_LIMIT;

/// Signs the answer of whatever comes after it.
pub async fn sign(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let nonce = request.headers().get(signed::NONCE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let nonce = match nonce {
        Some(nonce) if nonce.len() <= signed::LONGEST_NONCE && signed::is_signed(&target) => nonce,
        _ => return next.run(request).await,
    };
    let failed =
        |why: String| (StatusCode::INTERNAL_SERVER_ERROR, format!("signing {target}: {why}\n")).into_response();
    let (parts, body) = request.into_parts();
    let question = match to_bytes(body, REPORT_LIMIT).await {
        Ok(question) => question,
        Err(error) => return (StatusCode::PAYLOAD_TOO_LARGE, format!("{error}\n")).into_response(),
    };
    let response = next.run(Request::from_parts(parts, Body::from(question.clone()))).await;
    let (mut parts, body) = response.into_parts();
    let body = match to_bytes(body, usize::try_from(LARGEST_TEXT).unwrap_or(usize::MAX)).await {
        Ok(body) => body,
        Err(error) => return failed(error.to_string()),
    };
    let status = parts.status.as_u16();
    let answer = Answer { target: &target, nonce: &nonce, question: &question, status, body: &body };
    let signature = answer.sign(shared.keys.signing()).and_then(|text| Ok(HeaderValue::from_str(&text)?));
    match signature {
        Ok(signature) => parts.headers.insert(signed::SIGNATURE, signature),
        Err(error) => return failed(format!("{error:#}")),
    };
    Response::from_parts(parts, Body::from(body))
}
