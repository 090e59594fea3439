//! `uwsgi-tuntap` against control sockets of the tests, which speak as a router does.

mod changes;
mod conversation;
mod finding;
mod looking;
mod router;
mod saving;
mod screen;
mod shells;
mod support;
mod top;
