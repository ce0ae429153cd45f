//! Variables for the command: `--env` and `--env-file`, in the form that other container tools have.
//!
//! The command has `netctl`'s own environment; what is said here comes on top of it, files first, in the order given.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

/// What is to be set or, with no value, unset.
pub type Variable = (OsString, Option<OsString>);

/// The options.
#[derive(Debug, Default, Args)]
pub struct EnvOptions {
    /// A variable for the command; without a value it has netctl's; repeat it for several
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]")]
    #[arg(value_parser = OsStringValueParser::new().try_map(|text| parse(text.as_bytes())))]
    variables: Vec<Given>,
    /// A file of such, one a line; empty lines and those that begin with # say nothing
    #[arg(long = "env-file", value_name = "PATH")]
    files: Vec<PathBuf>,
}

/// A variable as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Given {
    name: OsString,
    value: Option<OsString>,
}

/// Why there are no variables.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A line that is none.
    #[error("{}, line {line}: {why}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
}

impl EnvOptions {
    /// What is to be set, later ones above earlier ones.
    ///
    /// # Errors
    /// When a file cannot be read, or a line of it is no variable.
    pub fn variables(&self) -> Result<Vec<Variable>, EnvError> {
        let mut given = Vec::new();
        for path in &self.files {
            let text = fs::read(path).map_err(|source| EnvError::Read { path: path.clone(), source })?;
            given.extend(lines(path, &text)?);
        }
        given.extend(self.variables.iter().cloned());
        let own = |name: &OsStr| std::env::var_os(name);
        Ok(given.into_iter().map(|Given { name, value }| (name.clone(), value.or_else(|| own(&name)))).collect())
    }
}

fn lines(path: &Path, text: &[u8]) -> Result<Vec<Given>, EnvError> {
    let mut given = Vec::new();
    for (index, line) in text.split(|b| *b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let variable = parse(line);
        given.push(variable.map_err(|why| EnvError::Line { path: path.to_owned(), line: index + 1, why })?);
    }
    Ok(given)
}

/// `NAME=VALUE` or `NAME`. A value is taken as it stands: no quotes, no escapes.
fn parse(text: &[u8]) -> Result<Given, String> {
    let (name, value) = match text.iter().position(|b| *b == b'=') {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let shown = String::from_utf8_lossy(text);
    // execve(2) ends a string there; a name with blanks is nearly always a mistake, and no shell could read it.
    if name.is_empty() || name.iter().any(u8::is_ascii_whitespace) || text.contains(&0) {
        return Err(format!("{shown:?} is no variable: the form is NAME=VALUE or NAME"));
    }
    let own = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    Ok(Given { name: own(name), value: value.map(own) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(name: &str, value: Option<&str>) -> Given {
        Given { name: name.into(), value: value.map(Into::into) }
    }

    #[test]
    fn a_value_is_taken_as_it_stands() {
        assert_eq!(parse(b"A=b=c \"d\""), Ok(given("A", Some("b=c \"d\""))));
        assert_eq!(parse(b"A="), Ok(given("A", Some(""))));
        assert_eq!(parse(b"A"), Ok(given("A", None)));
        assert_eq!(parse(b"A=\xff").unwrap().value.unwrap().as_bytes(), b"\xff");
    }

    #[test]
    fn what_is_no_variable_is_named() {
        for text in [&b""[..], b"=x", b"A B=c", b"A=\0"] {
            assert!(parse(text).unwrap_err().contains("the form is NAME=VALUE or NAME"), "{text:?}");
        }
    }

    #[test]
    fn a_file_has_comments_empty_lines_and_other_systems_line_ends() {
        let text = b"# comment\n\nA=1\r\n  B=2 # part of it\nC";
        let wanted = [given("A", Some("1")), given("B", Some("2 # part of it")), given("C", None)];
        assert_eq!(lines(Path::new("f"), text).unwrap(), wanted);
    }

    #[test]
    fn a_bad_line_is_named_with_its_number() {
        let err = lines(Path::new("f"), b"A=1\nexport B=2\n").unwrap_err().to_string();
        assert!(err.starts_with("f, line 2: \"export B=2\" is no variable"), "{err}");
    }

    #[test]
    fn options_stand_above_files_and_a_bare_name_is_netctls() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "A=file\nPATH=file\nNO_SUCH_VARIABLE=file\n").unwrap();
        let options = EnvOptions {
            variables: vec![given("A", Some("option")), given("PATH", None), given("NO_SUCH_VARIABLE", None)],
            files: vec![file.path().to_owned()],
        };
        let all = options.variables().unwrap();
        let last = |name: &str| all.iter().rfind(|(n, _)| n == name).unwrap().1.clone();
        assert_eq!(last("A"), Some("option".into()));
        assert_eq!(last("PATH"), std::env::var_os("PATH"));
        assert_eq!(last("NO_SUCH_VARIABLE"), None);
        let missing = EnvOptions { files: vec!["/no/such/file".into()], ..EnvOptions::default() };
        assert_eq!(missing.variables().unwrap_err().to_string(), "read /no/such/file");
    }
}
