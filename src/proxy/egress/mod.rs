//! Streams that go out, over tunnels to those who must answer.

pub mod gateway;
pub mod hbone;
