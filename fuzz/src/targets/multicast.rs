//! What multicast reads from the network: datagrams, manifests, messages of both sides, and reports as a session hears them. What is
//! asserted stands beside the readers, which are private to the plugin.

use transport_multicast::fuzzing;

pub fn datagrams(data: &[u8]) {
    fuzzing::datagrams(data);
}

pub fn manifest(data: &[u8]) {
    fuzzing::manifest(data);
}

pub fn messages(data: &[u8]) {
    fuzzing::message(data);
}

pub fn reports(data: &[u8]) {
    fuzzing::reports(data);
}
