//! The first bytes of a file: enough to read its header before a download.

use std::io::{self, Read};

use ureq::http::Method;

use super::address::Address;
use super::client::Follow;
use super::refusal::{Requested, Trouble};
use super::{Event, Hub, Listing, Watch, tell};
use crate::error::{Error, Result};
use crate::name::path_problem;

/// Buffer size in bytes.
const CHUNK: usize = 256 << 10;

impl Hub {
    /// Returns the first `length` bytes of a file of a listed commit, or all if there are fewer. Nothing is stored, and
    /// no checksum is verified. A failed request is not repeated.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::FileName`] for an unsafe file name.
    pub fn beginning(
        &self,
        listing: &Listing,
        path: &str,
        length: usize,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<u8>> {
        let repository = &listing.repository;
        if let Some(problem) = path_problem(path) {
            let (repository, file) = (repository.to_string(), path.to_owned());
            return Err(Error::FileName { repository, file, problem });
        }
        self.ensure_online(&format!("{repository}:{path}"))?;
        let text = self.file_address(repository, &listing.commit, path);
        let no_address =
            || Error::Answer { address: text.clone(), problem: "it is no address".to_owned() };
        let address = Address::parse(&text).ok_or_else(no_address)?;
        let requested = Requested { repository, revision: &listing.revision, file: Some(path) };
        let attempt = self.first_bytes(&address, requested, length, &mut |have| {
            tell(watch, Event::Progress { file: path, have, bytes: length as u64 })
        });
        attempt.map_err(|trouble| match trouble {
            Trouble::Final(error) => error,
            Trouble::Again { error, .. } => *error,
        })
    }

    fn first_bytes(
        &self,
        address: &Address,
        requested: Requested<'_>,
        length: usize,
        advance: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Vec<u8>, Trouble> {
        let answer =
            self.client.request(Method::GET, address, 0, Follow::Everywhere, &mut |_| ())?;
        if answer.status != 200 {
            return Err(self.refusal(&answer, requested));
        }
        let mut body = answer.body.into_with_config().limit(u64::MAX).reader();
        let (mut bytes, mut chunk) = (Vec::new(), vec![0; CHUNK]);
        while bytes.len() < length {
            let most = CHUNK.min(length - bytes.len());
            match body.read(&mut chunk[..most]) {
                Ok(0) => break,
                Ok(read) => bytes.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Trouble::broken(address, &error.to_string())),
            }
            advance(bytes.len() as u64)?;
        }
        Ok(bytes)
    }
}
