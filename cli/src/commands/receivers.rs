//! Receivers of trees on their way, as lines for people.

use systemimager_core::{ReceiverEnd, ReceiverState};
use systemimager_engine::serve::sessions::Session;

use crate::context::Context;

/// Prints sessions with their receivers; those that have ended are told of until the transport forgets them.
pub fn print(context: &Context, sessions: &[Session]) {
    for session in sessions.iter().filter(|session| !session.state.receivers.is_empty()) {
        let state = &session.state;
        context.say(format_args!("{} {}: {}", session.transport, state.export, state.how));
        for receiver in &state.receivers {
            context.say(format_args!("  {}  {}", receiver.address, words(receiver)));
        }
    }
}

/// How a receiver stands.
pub fn words(receiver: &ReceiverState) -> String {
    match &receiver.ended {
        Some(ReceiverEnd::Done(hash)) => format!("has all of it, {}", hash.get(..16).unwrap_or(hash)),
        Some(ReceiverEnd::Failed(why)) => format!("FAILED: {why}"),
        Some(other) => format!("{other:?}"),
        None => {
            let percent = (receiver.bytes * 100).checked_div(receiver.total).unwrap_or(0);
            format!("{percent} % of {} MB, {}", receiver.total / 1_000_000, receiver.how)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_how_it_stands() {
        let state = |bytes, ended| ReceiverState {
            bytes,
            total: 200_000_000,
            how: "group".into(),
            ended,
            ..ReceiverState::default()
        };
        for (receiver, expected) in [
            (state(50_000_000, None), "25 % of 200 MB, group"),
            (state(0, Some(ReceiverEnd::Done("abc".into()))), "has all of it, abc"),
            (state(0, Some(ReceiverEnd::Failed("no room".into()))), "FAILED: no room"),
        ] {
            assert_eq!(words(&receiver), expected);
        }
        assert_eq!(words(&ReceiverState::default()), "0 % of 0 MB, ");
    }
}
