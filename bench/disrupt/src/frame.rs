//! What a connection carries: numbered requests, and answers that say whose they are.
//!
//! ```text
//!  request   0       4           8                16                       64
//!            | magic | connection |    number     | filling of both numbers |
//!  answer    0                                                             64        72        88
//!            | the request, byte for byte                                   | counted | backend  |
//! ```
//!
//! Numbers are big-endian. `counted` is how many requests the server has had on this connection, from 1; `backend` its
//! name, filled up with zeros. A byte that is lost, repeated, changed, or of another connection so shows in the next answer.

/// Bytes of a request.
pub const REQUEST: usize = 64;
/// Bytes of an answer.
pub const ANSWER: usize = REQUEST + 8 + NAME;
/// Most bytes of a backend's name.
pub const NAME: usize = 16;

/// Tells our requests from those of a stray client.
const MAGIC: [u8; 4] = *b"jlbs";

/// Why an answer is not the one to this request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Bytes that are not those sent, or of another request or connection.
    #[error("it is not the request that was sent")]
    Request,
    /// The server has seen more or fewer requests than were sent.
    #[error("the server has counted {counted} requests of {sent}")]
    Counted {
        /// By the server.
        counted: u64,
        /// By us.
        sent: u64,
    },
    /// Another backend speaks.
    #[error("another backend answers")]
    Backend,
    /// The name is none.
    #[error("its backend has no name")]
    Name,
}

/// The request of that number, from 1, on that connection.
#[must_use]
pub fn request(connection: u32, number: u64) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..8].copy_from_slice(&connection.to_be_bytes());
    bytes[8..16].copy_from_slice(&number.to_be_bytes());
    // xorshift64 (Marsaglia 2003): no two requests have the same filling. Its state must not be 0.
    let mut state = (u64::from(connection) << 32 ^ number) | 1 << 63;
    for word in bytes[16..].chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_be_bytes());
    }
    bytes
}

/// Whether this begins as a request does.
#[must_use]
pub fn is_request(bytes: &[u8; REQUEST]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// A server's answer. A longer name is cut.
#[must_use]
pub fn answer(request: &[u8; REQUEST], counted: u64, backend: &str) -> [u8; ANSWER] {
    let mut bytes = [0; ANSWER];
    bytes[..REQUEST].copy_from_slice(request);
    bytes[REQUEST..REQUEST + 8].copy_from_slice(&counted.to_be_bytes());
    let name = &backend.as_bytes()[..backend.len().min(NAME)];
    bytes[REQUEST + 8..][..name.len()].copy_from_slice(name);
    bytes
}

/// Checks the answer to a request; `before` is the backend of the connection so far. Gives the backend.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check(
    answer: &[u8; ANSWER],
    connection: u32,
    number: u64,
    before: Option<&str>,
) -> Result<String, Wrong> {
    if answer[..REQUEST] != request(connection, number) {
        return Err(Wrong::Request);
    }
    let name = &answer[REQUEST + 8..];
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(NAME);
    let backend = str::from_utf8(&name[..end]).map_err(|_| Wrong::Name)?;
    if backend.is_empty() {
        return Err(Wrong::Name);
    }
    if before.is_some_and(|before| before != backend) {
        return Err(Wrong::Backend);
    }
    let counted = answer[REQUEST..REQUEST + 8].iter().fold(0, |n, &byte| n << 8 | u64::from(byte));
    if counted != number {
        return Err(Wrong::Counted { counted, sent: number });
    }
    Ok(backend.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_the_request_names_its_backend() {
        let bytes = answer(&request(7, 3), 3, "backend-2");
        assert_eq!(check(&bytes, 7, 3, None).unwrap(), "backend-2");
        assert_eq!(check(&bytes, 7, 3, Some("backend-2")).unwrap(), "backend-2");
    }

    #[test]
    fn every_changed_byte_is_seen() {
        let bytes = answer(&request(7, 3), 3, "backend-2");
        for at in 0..REQUEST + 8 + "backend-2".len() {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert!(check(&changed, 7, 3, Some("backend-2")).is_err(), "byte {at}");
        }
    }

    #[test]
    fn an_answer_to_another_request_or_connection_or_of_another_backend_is_wrong() {
        let bytes = answer(&request(7, 3), 3, "backend-2");
        assert_eq!(check(&bytes, 7, 4, None), Err(Wrong::Request));
        assert_eq!(check(&bytes, 8, 3, None), Err(Wrong::Request));
        assert_eq!(check(&bytes, 7, 3, Some("backend-1")), Err(Wrong::Backend));
    }

    #[test]
    fn a_server_that_missed_a_request_or_saw_one_twice_is_found_out() {
        for counted in [2, 4] {
            let bytes = answer(&request(7, 3), counted, "backend-2");
            assert_eq!(check(&bytes, 7, 3, None), Err(Wrong::Counted { counted, sent: 3 }));
        }
    }

    #[test]
    fn a_stray_client_is_told_from_ours() {
        assert!(is_request(&request(0, 1)));
        let mut stray = [b' '; REQUEST];
        stray[..4].copy_from_slice(b"GET ");
        assert!(!is_request(&stray));
    }
}
