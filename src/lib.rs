//! adit: a transparent mTLS proxy that knows *who* is calling.
//!
//! # Layout
//! Modules, lowest layer first; a module imports only from modules listed before it
//! (`tests/layering` checks it):
//!
//! - [`sys`]: the kernel: network namespaces, socket options, signals; the only `unsafe`
//! - [`lifecycle`]: tasks with owners, which can be drained and cut
//! - [`identity`]: SPIFFE IDs, X.509-SVIDs, trust bundles, and what makes them valid
//! - [`net`]: addresses, flows, why connections end; sockets that listen and dial
//! - [`observe`]: one record per connection, metrics, access log, logging
//! - [`http`]: one HTTP/1 server for operators and for what is public
//! - [`rpc`]: gRPC messages, and the way to a Unix socket
//! - [`tls`]: mutual TLS 1.3 between SVIDs
//! - [`credentials`]: where SVIDs come from, and when they are renewed
//! - [`authority`]: the embedded CA, and serving it to other nodes
//! - [`spiffe_api`]: the Workload API's server, federation, and a check of others
//! - [`policy`]: who may call whom: `admission::decide` and its trace that names the deciding rule
//! - [`mesh`]: workloads, services and policies, in a store of deltas
//! - [`relay`]: bytes from one side to the other, with half-close
//! - [`hbone`]: HBONE (HTTP/2 CONNECT over mTLS) on the wire
//! - [`proxy`]: accepting, HBONE in and out, trust while a connection is open, and how it ends: the
//!   same for both roles
//! - [`roles`]: the two proxies: of a node (`src/roles/node/mod.rs` tells the story of a
//!   connection) and in front of one service (`src/roles/standalone/mod.rs`)
//! - [`pods`]: which pods are served, and how their traffic is captured
//! - [`config`]: files as written → values as used
//! - [`admin`]: what operators see: dumps, live connections, certificates, metrics
//! - [`app`]: the composition root: puts the modules together for each subcommand
//! - [`guide`]: the guides, as Markdown
//! - [`cli`]: subcommands, their help and exit codes
//!
//! # Reading path
//! A captured connection: `roles/node/mod.rs` (the story) → `proxy/listener.rs` →
//! `roles/node/start.rs` → `arrival.rs` → `route.rs` → `outbound.rs` there;
//! `proxy/egress/hbone.rs` → `hbone/pool.rs` → `hbone/client.rs` → `relay/mod.rs` →
//! `hbone/stream.rs`. On the far node `proxy/ingress/hbone.rs` → `hbone/server.rs` →
//! `roles/node/inbound.rs` → `policy/admission.rs`. Its end: `observe/conn/open.rs`.
//!
//! A connection of `adit server` (bare names stand in `roles/standalone`): `mod.rs` → `accept.rs` →
//! `proxy/listener.rs` → `connection.rs` → `service.rs` → `tls/secured.rs` → `trusted_peers.rs` →
//! `admission.rs` → `policy/access_control.rs` → `policy/admission.rs` → `reach.rs` →
//! `relay/secured.rs` → `relay/mod.rs` → `outcome.rs` → `observe/conn/open.rs`.
//!
//! # Threads
//! One control thread (CA, files, admin, metrics) and N data workers, each a current-thread
//! runtime that owns a connection from where it was placed to its close.
//!
//! # Ports
//! In each pod's namespace 15001 (outbound capture), 15006 (inbound plaintext capture) and
//! 15008 (HBONE); in adit's own 15000 (admin, loopback), 15020 (metrics), 15021 (readiness).

#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod admin;
pub mod app;
pub mod authority;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod guide;
pub mod hbone;
pub mod http;
pub mod identity;
pub mod lifecycle;
pub mod mesh;
pub mod net;
pub mod observe;
pub mod pods;
pub mod policy;
pub mod proxy;
pub mod relay;
pub mod roles;
pub mod rpc;
pub mod spiffe_api;
pub mod sys;
pub mod tls;
