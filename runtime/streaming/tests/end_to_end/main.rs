//! The server and its clients over real sockets on the loopback address, with an engine of functions.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    unreachable_pub,
    reason = "these are tests, also where they are functions"
)]

mod engine;
mod foreign;
mod refused;
mod spdy;
mod websocket;
