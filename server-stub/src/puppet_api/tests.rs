//! The API without a socket.
