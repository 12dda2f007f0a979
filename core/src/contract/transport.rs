//! Transport: how a tree gets from one machine to another.

use crate::data::{
    Answer, Asked, Capabilities, HelperCall, HelperEnd, Needs, Offer, PullReport, PullRequest, Role, Service, Source,
};

crate::contract::macros::contract! {
    /// Moves trees, always by pulling. The only kind of plugin that may start programs
    /// ([`Host::spawn`](crate::Host::spawn)).
    pub trait Transport, remote RemoteTransport, dispatch dispatch_transport;
    required {
        /// What it can do.
        fn capabilities(()) -> Capabilities;
        /// What it needs on a machine in this role.
        fn needs(Role) -> Needs;
        /// How to offer these trees: files to write, a program to run. Pure: starts nothing.
        ///
        /// # Errors
        /// `Invalid` for an offer that it cannot express (a path that its configuration cannot hold).
        fn offer(Offer) -> Service;
        /// Pulls an export into a directory, with progress; polls for cancellation. Numeric ids, hard
        /// links, ACLs, xattrs (capabilities among them), devices, sparse files and any file name arrive
        /// as they are.
        ///
        /// # Errors
        /// `Denied` (secret, address), `Unreachable`, `NotFound` (no such export), `NoSpace`,
        /// `Cancelled`, `Failed`. Files that could not be read are not an error but in the report.
        fn pull(PullRequest) -> PullReport;
    }
    optional {
        /// Tells the offering side that the capture is finished ([`Offer::finish`]).
        fn finish(Source) -> ();
        /// What is run for somebody whom the service let in, and who sent a command ([`Offer::door`]). Pure, and the one
        /// place that looks at what they sent.
        ///
        /// # Errors
        /// `Denied`: the command asks for anything but to read this tree. They are told so.
        fn answer(Asked) -> Answer;
        /// Goes on as a program of its own: what `@self` begins in a [`Service`], and what
        /// [`Spawn::helpers`](crate::Spawn::helpers) name. Its standard streams are its own.
        ///
        /// # Errors
        /// Shown on standard error; the helper ends with exit status 1.
        fn helper(HelperCall) -> HelperEnd;
    }
}
