//! The router's own key, and the file that it lies in.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::unistd::geteuid;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use thiserror::Error;
use tuntap_sys::secret_file::{Exposure, SecretFile};
use tuntap_wire::holding::RouterId;
use tuntap_wire::trunk::{KEY_LEN, PublicKey};

/// What stands before the 32 bytes of a private key of Ed25519 in PKCS#8 (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// What stands before the 32 bytes of a public key of Ed25519 in a SubjectPublicKeyInfo (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Longest key file, in bytes. One that this code has written has 119.
const MAX_FILE_LEN: usize = 4096;

/// Why there is no key.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// The file can't be opened, read or made.
    #[error("the key file {path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// What the kernel says.
        error: io::Error,
    },
    /// Others could have read or changed it.
    #[error("the key file {path} {exposure}")]
    Exposed {
        /// The file.
        path: String,
        /// What is wrong with it.
        exposure: Exposure,
    },
    /// The file has another key than before.
    #[error("the key file {0} has another key than at the start; a reload takes it")]
    Changed(String),
    /// It holds something else.
    #[error(
        "the key file {0} holds no private key of Ed25519 (PKCS#8 in PEM, as `openssl genpkey -algorithm ed25519` writes it)"
    )]
    NotAKey(String),
    /// The kernel has no random bytes.
    #[error("no random bytes for a key")]
    Random,
}

impl KeyFileError {
    /// There is no file of that name.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }
}

/// An open file with a router's key, which isn't read yet. Who has it can read the key even if its user could not open the file.
#[derive(Debug)]
pub struct KeyFile {
    file: File,
    path: String,
}

impl KeyFile {
    /// Opens a key's file. It must be a regular file of this process's user or root, and nobody else may open it.
    pub fn open(path: &Path) -> Result<Self, KeyFileError> {
        let name = || path.display().to_string();
        let failed = |error| KeyFileError::Io { path: name(), error };
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC | nix::libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
        let facts = file.metadata().map_err(failed)?;
        match SecretFile::from(&facts).exposure(geteuid().as_raw()) {
            Some(exposure) => Err(KeyFileError::Exposed { path: name(), exposure }),
            None => Ok(Self { file, path: name() }),
        }
    }

    /// Makes the file with a new key. Returns false if somebody else was faster.
    pub fn create(path: &Path) -> Result<bool, KeyFileError> {
        write_new(path, &new_pem()?).map_err(|error| KeyFileError::Io { path: path.display().to_string(), error })
    }

    /// A file that was opened before, by the name it had.
    pub fn adopt(file: OwnedFd, path: &str) -> Self {
        Self { file: file.into(), path: path.to_owned() }
    }

    /// Reads the key. From here on this process has it in its memory.
    pub fn read(&self) -> Result<PrivateKey, KeyFileError> {
        let mut pem = vec![0; MAX_FILE_LEN];
        let mut len = 0;
        loop {
            match self.file.read_at(&mut pem[len..], u64::try_from(len).unwrap_or(u64::MAX)) {
                Ok(0) => break,
                Ok(more) => len += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(KeyFileError::Io { path: self.path.clone(), error }),
            }
        }
        PrivateKey::from_pem(&pem[..len]).ok_or_else(|| KeyFileError::NotAKey(self.path.clone()))
    }

    /// Reads the key, which has to be the one with this public half.
    pub fn read_known(&self, public: PublicKey) -> Result<PrivateKey, KeyFileError> {
        let key = self.read()?;
        if key.public() == public { Ok(key) } else { Err(KeyFileError::Changed(self.path.clone())) }
    }

    /// The open file.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Gives up the open file.
    pub fn into_descriptor(self) -> OwnedFd {
        self.file.into()
    }
}

/// A router's private key of Ed25519. It never appears in text.
#[derive(Clone)]
pub struct PrivateKey {
    signing: Arc<dyn SigningKey>,
    public: PublicKey,
    router: RouterId,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PrivateKey").field("public", &self.public).finish_non_exhaustive()
    }
}

impl PrivateKey {
    /// Makes a new key.
    pub fn generate() -> Result<Self, KeyFileError> {
        let pem = new_pem()?;
        Self::from_pem(pem.as_bytes()).ok_or(KeyFileError::Random)
    }

    /// Reads the key from a file, see [`KeyFile::open`].
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        KeyFile::open(path)?.read()
    }

    /// Reads the key from a file, which is made with a new key if it isn't there. Returns whether it was made. Of two processes
    /// that make it at once, one does, and both have its key.
    pub fn load_or_create(path: &Path) -> Result<(Self, bool), KeyFileError> {
        match Self::load(path) {
            Err(error) if error.is_missing() => {}
            result => return result.map(|key| (key, false)),
        }
        let is_made = KeyFile::create(path)?;
        Ok((Self::load(path)?, is_made))
    }

    /// Reads a key. `None` if it is none of Ed25519.
    pub fn from_pem(pem: &[u8]) -> Option<Self> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).ok()?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).ok()?;
        let public = PublicKey(pair.public_key().as_ref().try_into().ok()?);
        let signing = rustls::crypto::ring::sign::any_eddsa_type(&der).ok()?;
        Some(Self { signing, public, router: public.router_id()? })
    }

    /// The public half.
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// The id of the router with this key.
    pub const fn router_id(&self) -> RouterId {
        self.router
    }

    /// The key as TLS shows it: the public half as a SubjectPublicKeyInfo in place of a certificate (RFC 7250).
    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::new(CertifiedKey::new(vec![CertificateDer::from(to_spki(&self.public))], Arc::clone(&self.signing)))
    }
}

/// A public key as a SubjectPublicKeyInfo in DER.
pub(crate) fn to_spki(key: &PublicKey) -> Vec<u8> {
    [SPKI_PREFIX.as_slice(), &key.0].concat()
}

/// The public key in a SubjectPublicKeyInfo. `None` if it is none of Ed25519.
pub(crate) fn from_spki(spki: &[u8]) -> Option<PublicKey> {
    spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok().map(PublicKey)
}

/// A new private key as PKCS#8 in PEM.
fn new_pem() -> Result<String, KeyFileError> {
    let mut seed = [0; KEY_LEN];
    SystemRandom::new().fill(&mut seed).map_err(|_| KeyFileError::Random)?;
    let text = STANDARD.encode([PKCS8_PREFIX.as_slice(), &seed].concat());
    Ok(format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n"))
}

/// Writes a file that isn't there yet, whole or not at all: under another name first. Returns false if somebody else was
/// faster.
fn write_new(path: &Path, text: &str) -> io::Result<bool> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}", std::process::id()));
    let draft = path.with_file_name(name);
    let result = write_draft(&draft, text).and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        result => result.map(|()| true),
    });
    let _ = fs::remove_file(&draft);
    result
}

fn write_draft(path: &Path, text: &str) -> io::Result<()> {
    // A draft that is there is one of a process that died.
    let _ = fs::remove_file(path);
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn key_is_made_once_and_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let (first, is_made) = PrivateKey::load_or_create(&path).expect("it is made");
        assert!(is_made);
        let (second, is_made) = PrivateKey::load_or_create(&path).expect("it is there");
        assert!(!is_made);
        assert_eq!((first.public(), first.router_id()), (second.public(), second.router_id()));
        assert_eq!(fs::metadata(&path).expect("it is there").mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "no draft is left");
        assert_eq!(from_spki(&to_spki(&first.public())), Some(first.public()));
        assert_ne!(PrivateKey::generate().expect("random bytes").public(), first.public());
        let secret = STANDARD.decode(fs::read_to_string(&path).expect("a text").lines().nth(1).expect("base64"));
        let secret = STANDARD.encode(&secret.expect("base64")[16..]);
        assert!(!format!("{first:?}").contains(&secret));
    }

    #[test]
    fn public_half_is_that_of_the_standard() {
        // The first test of RFC 8032, section 7.1.
        let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
        let key = PrivateKey::from_pem(pem.as_bytes()).expect("a key");
        assert_eq!(key.public().to_string(), "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
        assert_eq!(Some(key.router_id()), key.public().router_id());
    }

    #[test]
    fn open_file_gives_the_key_later_unless_that_has_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        assert!(KeyFile::open(&path).is_err_and(|error| error.is_missing()));
        assert!(KeyFile::create(&path).expect("it is made"));
        assert!(!KeyFile::create(&path).expect("it is there"), "it stays as it is");
        let file = KeyFile::open(&path).expect("it is there");
        let key = file.read().expect("a key");
        let file = KeyFile::adopt(file.into_descriptor(), "that file");
        assert_eq!(file.read_known(key.public()).expect("the same").router_id(), key.router_id());
        assert_eq!(file.read().expect("it is read from its beginning").public(), key.public());
        let other = folder.path().join("other");
        KeyFile::create(&other).expect("it is made");
        fs::copy(&other, &path).expect("own files");
        let error = file.read_known(key.public()).expect_err("another one").to_string();
        assert!(error.contains("that file has another key than at the start"), "{error}");
        fs::write(&path, vec![b'a'; 2 * MAX_FILE_LEN]).expect("own file");
        assert!(matches!(file.read(), Err(KeyFileError::NotAKey(_))));
    }

    #[test]
    fn what_is_no_safe_key_file_has_a_reason() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let reason = || PrivateKey::load_or_create(&path).map(drop).expect_err("no key").to_string();
        fs::write(&path, "nothing").expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("an own file");
        assert!(reason().contains("has mode 0640"), "{}", reason());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("an own file");
        assert!(reason().contains("holds no private key of Ed25519"), "{}", reason());
        fs::remove_file(&path).expect("it is there");
        std::os::unix::fs::symlink("elsewhere", &path).expect("a link");
        assert!(reason().contains("key: "), "{}", reason());
        assert!(!folder.path().join("elsewhere").exists());
        fs::remove_file(&path).expect("it is there");
        fs::create_dir(&path).expect("a folder");
        assert!(reason().contains("is no regular file"), "{}", reason());
        let missing = folder.path().join("a/b");
        let error = PrivateKey::load_or_create(&missing).map(drop).expect_err("no folder").to_string();
        assert!(error.contains("a/b"), "{error}");
        if geteuid().is_root() {
            fs::remove_dir(&path).expect("it is empty");
            PrivateKey::load_or_create(&path).expect("it is made");
            std::os::unix::fs::chown(&path, Some(65534), None).expect("root may");
            assert!(reason().contains("belongs to uid 65534"), "{}", reason());
        }
    }

    /// Why weak keys are no keys ([`tuntap_wire::trunk::KeyError`]): this signature of nobody counts for what one likes.
    #[test]
    fn signature_of_nobody_counts_for_a_weak_key() {
        let mut weak = [0; KEY_LEN];
        weak[0] = 1;
        let forged = [weak, [0; KEY_LEN]].concat();
        let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, weak);
        key.verify(b"anything", &forged).expect("it counts");
        assert!(PublicKey(weak).to_string().parse::<PublicKey>().is_err());
    }
}
