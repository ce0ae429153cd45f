//! Authorities and certificates, made by openssl in a directory of the test's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A directory of certificates: `<name>.crt` and `<name>.key`, in PEM.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
}

/// For whom a certificate is, beside its name.
#[derive(Clone, Copy, Debug, Default)]
pub struct For<'a> {
    /// `IP:…` or `DNS:…`, as openssl has it; empty for a client.
    pub place: &'a str,
    /// Whether it was over long before it is used.
    pub expired: bool,
    /// Whether it may sign others in its turn.
    pub authority: bool,
}

impl Pki {
    /// In a directory that is made.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn new(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Where a certificate is.
    #[must_use]
    pub fn cert(&self, name: &str) -> String {
        self.file(name, "crt")
    }

    /// Where its key is.
    #[must_use]
    pub fn key(&self, name: &str) -> String {
        self.file(name, "key")
    }

    fn file(&self, name: &str, kind: &str) -> String {
        self.dir.join(format!("{name}.{kind}")).to_string_lossy().into_owned()
    }

    /// Makes an authority.
    ///
    /// # Errors
    /// What openssl says.
    pub fn authority(&self, name: &str) -> Result<()> {
        let (key, cert, subject) = (self.key(name), self.cert(name), format!("/CN={name}"));
        let words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
        self.openssl(words.into_iter().chain(["-subj", &subject, "-keyout", &key, "-out", &cert]))
    }

    /// Makes a certificate that an authority signs, or makes it anew: the files are replaced whole, the certificate last.
    ///
    /// # Errors
    /// What openssl says.
    pub fn issue(&self, authority: &str, name: &str, of: For) -> Result<()> {
        let (key, request, cert) = (self.file(name, "key.new"), self.file(name, "csr"), self.file(name, "crt.new"));
        let (extensions, subject) = (self.file(name, "ext"), format!("/O=weft/CN={name}"));
        let names = if of.place.is_empty() { String::new() } else { format!("subjectAltName={}\n", of.place) };
        std::fs::write(&extensions, format!("basicConstraints={}\n{names}", if of.authority { "CA:TRUE" } else { "CA:FALSE" }))?;
        let words = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        self.openssl(words.into_iter().chain(["-subj", &subject, "-keyout", &key, "-out", &request]))?;
        let (by, by_key) = (self.cert(authority), self.key(authority));
        let words = ["x509", "-req", "-in", &request, "-CA", &by, "-CAkey", &by_key, "-CAcreateserial", "-extfile", &extensions];
        // openssl 3.0 knows no date for this but "so many days from now"; less than none is over.
        let days = if of.expired { "-1" } else { "2" };
        self.openssl(words.into_iter().chain(["-days", days, "-out", &cert]))?;
        std::fs::rename(&key, self.key(name))?;
        Ok(std::fs::rename(&cert, self.cert(name))?)
    }

    fn openssl<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let words: Vec<&str> = words.into_iter().collect();
        let output = Command::new("openssl").args(&words).output().context("run openssl")?;
        ensure!(output.status.success(), "openssl {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}
