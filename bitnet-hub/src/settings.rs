//! Settings from the environment variables of `huggingface_hub`.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cache::HubCache;
use crate::error::{Error, Result};

/// The default hub.
const ENDPOINT: &str = "https://huggingface.co";
/// Default timeout in seconds.
const TIMEOUT: u64 = 10;
/// Maximum size of a token file in bytes.
const LONGEST_TOKEN: u64 = 4096;

/// An access token, which is sent to the hub and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Creates a token from trimmed text; `None` if it is empty.
    ///
    /// # Errors
    /// [`Error::Setting`] for `from` if the text is not valid in an HTTP header.
    pub fn new(text: &str, from: &str) -> Result<Option<Self>> {
        let text = text.trim();
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::Setting {
                name: from.to_owned(),
                problem: "the token contains invalid characters; copy it again".to_owned(),
            });
        }
        Ok((!text.is_empty()).then(|| Self(text.to_owned())))
    }

    /// Returns the secret.
    #[cfg(feature = "download")]
    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Settings of hub, cache and network.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The URL of the hub without a trailing slash (`HF_ENDPOINT`).
    pub endpoint: String,
    /// The token, if any (`HF_TOKEN`, `HF_TOKEN_PATH`, `$HF_HOME/token`).
    pub token: Option<Token>,
    /// The cache (`HF_HUB_CACHE`, `$HF_HOME/hub`, `~/.cache/huggingface/hub`).
    pub cache: HubCache,
    /// Whether downloads are disabled (`HF_HUB_OFFLINE`).
    pub offline: bool,
    /// The timeout for a response and for more data (`HF_HUB_DOWNLOAD_TIMEOUT`, in seconds).
    pub timeout: Duration,
    /// Whether proxies are used (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`).
    pub proxies: bool,
    /// A file of trusted certificates instead of Mozilla's (`SSL_CERT_FILE`).
    pub certificates: Option<PathBuf>,
}

impl Settings {
    /// Reads the settings from the environment of this process.
    ///
    /// # Errors
    /// [`Error::Setting`] with the invalid variable.
    pub fn from_environment() -> Result<Self> {
        Self::from_variables(&|name| std::env::var_os(name))
    }

    /// Reads the settings from the variables of `get`.
    ///
    /// # Errors
    /// [`Error::Setting`] with the invalid variable.
    pub fn from_variables(get: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        let variables = Variables(get);
        let home = variables.folder("HF_HOME").or_else(|| {
            let cache = variables
                .folder("XDG_CACHE_HOME")
                .or_else(|| Some(variables.home()?.join(".cache")))?;
            Some(cache.join("huggingface"))
        });
        let cache = variables
            .folder("HF_HUB_CACHE")
            .or_else(|| variables.folder("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(home.as_ref()?.join("hub")))
            .ok_or_else(|| Error::Setting {
                name: "HF_HUB_CACHE".to_owned(),
                problem: "there is no home folder: set it to the cache folder".to_owned(),
            })?;
        let mut cache = HubCache::new(cache);
        if variables.truth("HF_HUB_DISABLE_SYMLINKS") {
            cache = cache.without_symlinks();
        }
        Ok(Self {
            endpoint: variables.endpoint()?,
            token: variables.token(home.as_deref())?,
            cache,
            offline: variables.truth("HF_HUB_OFFLINE") || variables.truth("TRANSFORMERS_OFFLINE"),
            timeout: variables.timeout()?,
            proxies: true,
            certificates: variables.folder("SSL_CERT_FILE"),
        })
    }
}

/// The variables of an environment; empty values count as unset.
struct Variables<'g>(&'g dyn Fn(&str) -> Option<OsString>);

impl Variables<'_> {
    fn raw(&self, name: &str) -> Option<OsString> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> Result<Option<String>> {
        self.raw(name).map(|value| value.into_string()).transpose().map_err(|_| Error::Setting {
            name: name.to_owned(),
            problem: "it is not UTF-8".to_owned(),
        })
    }

    fn home(&self) -> Option<PathBuf> {
        self.raw("HOME").or_else(|| self.raw("USERPROFILE")).map(PathBuf::from)
    }

    /// Returns a path with `~` expanded.
    fn folder(&self, name: &str) -> Option<PathBuf> {
        let path = PathBuf::from(self.raw(name)?);
        match path.strip_prefix("~") {
            Ok(rest) => Some(self.home()?.join(rest)),
            Err(_) => Some(path),
        }
    }

    fn truth(&self, name: &str) -> bool {
        let value = self.raw(name).and_then(|value| value.into_string().ok());
        value.is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.to_ascii_uppercase().as_str()))
    }

    fn endpoint(&self) -> Result<String> {
        let endpoint = self.text("HF_ENDPOINT")?.unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = endpoint.trim_end_matches('/');
        let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
        let good = |rest: &str| {
            !rest.is_empty()
                && !rest.starts_with('/')
                && rest.bytes().all(|b| b.is_ascii_graphic() && !b"@?#\\".contains(&b))
        };
        if rest.is_some_and(good) {
            return Ok(endpoint.to_owned());
        }
        Err(Error::Setting {
            name: "HF_ENDPOINT".to_owned(),
            problem: format!("expected a URL such as {ENDPOINT}, without user, password or query"),
        })
    }

    fn token(&self, home: Option<&Path>) -> Result<Option<Token>> {
        if self.truth("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            return Ok(None);
        }
        for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
            if let Some(text) = self.text(name)? {
                return Token::new(&text, name);
            }
        }
        let named = self.folder("HF_TOKEN_PATH");
        let Some(path) = named.or_else(|| Some(home?.join("token"))) else { return Ok(None) };
        let name = path.display().to_string();
        let data = match std::fs::metadata(&path) {
            Ok(data) => data,
            Err(_) => return Ok(None),
        };
        if !data.is_file() || data.len() > LONGEST_TOKEN {
            return Err(Error::Setting { name, problem: "it is not a token file".to_owned() });
        }
        match std::fs::read_to_string(&path) {
            Ok(text) => Token::new(&text, &name),
            Err(error) => {
                Err(Error::Setting { name, problem: format!("the token can't be read: {error}") })
            }
        }
    }

    fn timeout(&self) -> Result<Duration> {
        let name = "HF_HUB_DOWNLOAD_TIMEOUT";
        let Some(text) = self.text(name)? else { return Ok(Duration::from_secs(TIMEOUT)) };
        match text.trim().parse() {
            Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
            _ => Err(Error::Setting {
                name: name.to_owned(),
                problem: "expected a number of seconds from 1 to 86400".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings> {
        let owned: Vec<(String, OsString)> =
            variables.iter().map(|(n, v)| ((*n).to_owned(), OsString::from(*v))).collect();
        Settings::from_variables(&move |name| {
            owned.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone())
        })
    }

    #[test]
    fn the_cache_location_equals_huggingface_hub() {
        let folder =
            |variables: &[(&str, &str)]| settings(variables).unwrap().cache.folder().to_owned();
        let home = ("HOME", "h");
        assert_eq!(folder(&[home]), Path::new("h/.cache/huggingface/hub"));
        assert_eq!(folder(&[home, ("XDG_CACHE_HOME", "x")]), Path::new("x/huggingface/hub"));
        assert_eq!(folder(&[home, ("HF_HOME", "y")]), Path::new("y/hub"));
        assert_eq!(
            folder(&[home, ("HF_HOME", "y"), ("HUGGINGFACE_HUB_CACHE", "z")]),
            Path::new("z")
        );
        assert_eq!(folder(&[home, ("HF_HOME", "y"), ("HF_HUB_CACHE", "~/w")]), Path::new("h/w"));
        assert!(
            matches!(settings(&[]), Err(Error::Setting { name, .. }) if name == "HF_HUB_CACHE")
        );
    }

    #[test]
    fn the_token_is_found_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, " hf_file\n").unwrap();
        let home = ("HF_HOME", folder.path().to_str().unwrap());
        let with = |more: &[(&str, &str)]| settings(&[&[home], more].concat());
        let is = |settings: Result<Settings>, secret: &str| {
            settings.unwrap().token == Token::new(secret, "").unwrap()
        };
        assert!(is(with(&[]), "hf_file"));
        assert!(is(with(&[("HF_TOKEN", "hf_variable")]), "hf_variable"));
        assert!(is(with(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), ""));
        assert!(is(with(&[("HF_TOKEN_PATH", "there-is-none")]), ""));
        let shown = format!("{:?}", with(&[("HF_TOKEN", "hf_secret")]).unwrap());
        assert!(shown.contains("hidden") && !shown.contains("hf_secret"), "{shown}");
        let error = with(&[("HF_TOKEN", "hf_secret\r\nHost: x")]).unwrap_err().to_string();
        assert!(error.contains("HF_TOKEN") && !error.contains("secret"), "{error}");
        assert!(with(&[("HF_TOKEN_PATH", folder.path().to_str().unwrap())]).is_err());
    }

    #[test]
    fn invalid_settings_are_errors() {
        let with = |name, value| settings(&[("HOME", "h"), (name, value)]);
        assert_eq!(
            with("HF_ENDPOINT", "http://mirror:8000/hub/").unwrap().endpoint,
            "http://mirror:8000/hub"
        );
        assert_eq!(with("HF_ENDPOINT", "").unwrap().endpoint, ENDPOINT);
        for wrong in [
            "ftp://x",
            "https://",
            "https:///x",
            "https://u:p@x",
            "https://x?y",
            "x",
            "https://x y",
        ] {
            assert!(matches!(with("HF_ENDPOINT", wrong), Err(Error::Setting { .. })), "{wrong}");
        }
        assert_eq!(with("HF_HUB_DOWNLOAD_TIMEOUT", "30").unwrap().timeout, Duration::from_secs(30));
        for wrong in ["0", "-1", "x", "86401"] {
            assert!(with("HF_HUB_DOWNLOAD_TIMEOUT", wrong).is_err(), "{wrong}");
        }
        for (value, offline) in [("1", true), ("yes", true), ("0", false), ("", false)] {
            assert_eq!(with("HF_HUB_OFFLINE", value).unwrap().offline, offline, "{value}");
        }
    }
}
