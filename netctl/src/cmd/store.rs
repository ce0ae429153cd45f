//! `netctl store …`: everything that is in the store, as a document; to keep it, and to move to another store.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use weft_api::store::{FORM, StoreEntry, StoreExport, StoreImport, StoreImported, StorePrefixes};
use weft_api::{ClientError, Code};

use super::Context;
use crate::agent::Patience;
use crate::error::{DONE, Error};
use crate::format::{Page, Tone, cell, col};

/// How often an export begins anew because the store forgot the revision that it is of.
const TRIES: usize = 5;

/// Keys in a part, and about how many bytes of them.
const PART: (usize, usize) = (500, 1 << 20);

/// How many keys that differ are named in a message.
const NAMED: usize = 5;

/// `netctl store …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write everything below the agent's prefixes as a JSON document, all of one revision
    Export(ExportArgs),
    /// Write what an export holds into the agent's store, but for what hangs on leases: its owners write that anew
    Import(ImportArgs),
}

/// Arguments of `store export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Where to; `-` is standard output. A file is readable by its owner only, and there when it is whole
    #[arg(default_value = "-", value_name = "FILE")]
    file: PathBuf,
}

/// Arguments of `store import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// A document that `store export` wrote; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Write over keys that are there with another value. Without it such keys keep everything from being written
    #[arg(long)]
    replace: bool,
    /// Only say what would be written
    #[arg(long)]
    dry_run: bool,
}

/// Why a document is not written or not read.
#[derive(Debug, thiserror::Error)]
pub enum StoreDocumentError {
    /// The file.
    #[error("{op} {path}")]
    File {
        /// What was tried.
        op: &'static str,
        /// Which.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is none.
    #[error("{path} holds no export of a store")]
    NotOne {
        /// Which.
        path: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Another version's.
    #[error("{path} is an export of form {form}, and this netctl reads {FORM}: use the version that wrote it")]
    Form {
        /// Which.
        path: String,
        /// What it says.
        form: u32,
    },
    /// Keys are there, differently.
    #[error(
        "nothing is written: {count} keys are there with other values ({named}); --replace writes over them, --dry-run -o json names all"
    )]
    Differ {
        /// How many.
        count: usize,
        /// Some of them.
        named: String,
    },
}

/// What `store export` says when it wrote a file.
#[derive(Debug, Serialize)]
struct Exported {
    file: String,
    revision: i64,
    keys: u64,
    leased: u64,
}

/// What `store import` says.
#[derive(Debug, Serialize)]
struct Summary {
    dry_run: bool,
    replaced: bool,
    #[serde(flatten)]
    imported: StoreImported,
}

impl Command {
    /// How it is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Export(_) => "store export",
            Self::Import(_) => "store import",
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        match self {
            Self::Export(args) => args.execute(context).await,
            Self::Import(args) => args.execute(context).await,
        }
    }
}

impl ExportArgs {
    async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        if self.file.as_os_str() == "-" {
            // Written to a file without name first: half a document, begun anew, is of no use to whoever reads it.
            let path = std::env::temp_dir().join(format!("netctl-export-{}", std::process::id()));
            let file = create(&path)?;
            let removed = std::fs::remove_file(&path);
            removed.map_err(|source| file_error("remove the temporary", &path, source))?;
            let (file, _) = export(context, file, &path).await?;
            copy_out(context, file, &path)?;
            return Ok(DONE);
        }
        let mut beside = self.file.clone().into_os_string();
        beside.push(format!(".new-{}", std::process::id()));
        let beside = PathBuf::from(beside);
        let done = async {
            let (file, exported) = export(context, create(&beside)?, &self.file).await?;
            file.sync_all().map_err(|source| file_error("write", &self.file, source))?;
            std::fs::rename(&beside, &self.file).map_err(|source| file_error("write", &self.file, source))?;
            Ok::<_, Error>(exported)
        };
        let exported = match done.await {
            Ok(exported) => exported,
            Err(e) => {
                // It may not even be there.
                let _ = std::fs::remove_file(&beside);
                return Err(e);
            }
        };
        context.printer.show(&exported, |exported, page| {
            page.field("file", cell(&exported.file));
            page.field("revision", cell(exported.revision));
            page.field("keys", cell(exported.keys));
            page.field("on leases", cell(format!("{} (not imported anywhere: their owners write them)", exported.leased)));
        })?;
        Ok(DONE)
    }
}

/// Writes the document, page by page.
async fn export(context: &Context, mut file: File, path: &Path) -> Result<(File, Exported), Error> {
    let mut patience = Patience::begin();
    let mut tries = 0;
    loop {
        tries += 1;
        use std::io::Seek;
        let rewound = file.set_len(0).and_then(|()| file.rewind());
        rewound.map_err(|source| file_error("write", path, source))?;
        match export_once(context, &file, path, &mut patience).await {
            Ok(exported) => return Ok((file, exported)),
            Err(Error::Client(ClientError::Refused { code: Code::Conflict, .. })) if tries < TRIES => {}
            Err(e) => return Err(e),
        }
    }
}

async fn export_once(context: &Context, file: &File, path: &Path, patience: &mut Patience) -> Result<Exported, Error> {
    let client = context.agent.client();
    let mut out = BufWriter::new(file);
    let written = |result: io::Result<()>| result.map_err(|source| file_error("write", path, source));
    let mut exported = Exported { file: path.display().to_string(), revision: 0, keys: 0, leased: 0 };
    let mut next: Option<String> = None;
    loop {
        let at = next.as_deref().map(|next| (next, exported.revision));
        let page: StoreExport = context.agent.ask(client.store_export(at)).await?;
        if at.is_none() {
            exported.revision = page.revision;
            let prefixes: StorePrefixes = page.prefixes;
            written(write!(out, "{{\"weft_store\":{FORM},\"revision\":{},\"prefixes\":", page.revision))?;
            written(serde_json::to_writer(&mut out, &prefixes).map_err(io::Error::from))?;
            written(write!(out, ",\"entries\":["))?;
        }
        for entry in &page.entries {
            written(writeln!(out, "{}", if exported.keys == 0 { "" } else { "," }))?;
            written(serde_json::to_writer(&mut out, entry).map_err(io::Error::from))?;
            exported.keys += 1;
            exported.leased += u64::from(entry.leased);
        }
        patience.tell(&format!("{} keys", exported.keys));
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    written(write!(out, "\n]}}\n"))?;
    written(out.flush())?;
    Ok(exported)
}

/// Prints a file from its beginning.
fn copy_out(context: &mut Context, mut file: File, path: &Path) -> Result<(), Error> {
    use std::io::Seek;
    file.rewind().map_err(|source| file_error("read", path, source))?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(|source| file_error("read", path, source))? {
            0 => return Ok(()),
            length => context.printer.raw(&buffer[..length])?,
        }
    }
}

impl ImportArgs {
    async fn execute(self, context: &mut Context) -> Result<u8, Error> {
        let entries = read(&self.file)?;
        let mut patience = Patience::begin();
        // All of it is looked at before anything is written.
        let looked = import(context, &entries, self.replace, true, &mut patience).await?;
        if self.dry_run {
            let summary = Summary { dry_run: true, replaced: self.replace, imported: looked };
            context.printer.show(&summary, draw)?;
            return Ok(DONE);
        }
        if !looked.differ.is_empty() && !self.replace {
            let mut named = looked.differ.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
            if looked.differ.len() > NAMED {
                named.push_str(", ...");
            }
            return Err(StoreDocumentError::Differ { count: looked.differ.len(), named }.into());
        }
        let imported = import(context, &entries, self.replace, false, &mut patience).await?;
        drop(patience);
        context.printer.show(&Summary { dry_run: false, replaced: self.replace, imported }, draw)?;
        Ok(DONE)
    }
}

/// Sends the entries in parts.
async fn import(
    context: &Context,
    entries: &[StoreEntry],
    replace: bool,
    dry_run: bool,
    patience: &mut Patience,
) -> Result<StoreImported, Error> {
    let client = context.agent.client();
    let mut imported = StoreImported::default();
    let mut rest = entries;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |entry: &&StoreEntry| {
            let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
            bytes += length(&entry.key) + length(&entry.key_base64) + length(&entry.value) + length(&entry.value_base64);
            bytes <= PART.1
        };
        let count = rest.iter().take(PART.0).take_while(fits).count().max(1);
        let (part, left) = rest.split_at(count);
        rest = left;
        let part = StoreImport { weft_store: FORM, entries: part.to_vec(), replace, dry_run };
        imported.add(context.agent.ask(client.store_import(&part)).await?);
        let verb = if dry_run { "looked at" } else { "written" };
        patience.tell(&format!("{} of {} keys {verb}", entries.len() - rest.len(), entries.len()));
    }
    Ok(imported)
}

/// What a document must have.
#[derive(Deserialize)]
struct Document {
    weft_store: u32,
    entries: Vec<StoreEntry>,
}

fn read(path: &Path) -> Result<Vec<StoreEntry>, Error> {
    let not_one = |source: serde_json::Error| match source.io_error_kind() {
        Some(_) => file_error("read", path, source.into()),
        None => StoreDocumentError::NotOne { path: path.display().to_string(), source }.into(),
    };
    let document: Document = if path.as_os_str() == "-" {
        serde_json::from_reader(io::stdin().lock()).map_err(not_one)?
    } else {
        let file = File::open(path).map_err(|source| file_error("read", path, source))?;
        serde_json::from_reader(BufReader::new(file)).map_err(not_one)?
    };
    match document.weft_store {
        FORM => Ok(document.entries),
        form => Err(StoreDocumentError::Form { path: path.display().to_string(), form }.into()),
    }
}

/// A new file, its owner's only: what is in a store is nobody else's business.
fn create(path: &Path) -> Result<File, Error> {
    let mut options = std::fs::OpenOptions::new();
    let made = options.read(true).write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|source| file_error("write", path, source))
}

fn file_error(op: &'static str, path: &Path, source: io::Error) -> Error {
    StoreDocumentError::File { op, path: path.display().to_string(), source }.into()
}

fn draw(summary: &Summary, page: &mut Page) {
    let (written, differ) = match summary.dry_run {
        true => ("would be written", if summary.replaced { "would be written over" } else { "there with other values" }),
        false => ("written", "written over"),
    };
    let imported = &summary.imported;
    page.field(written, cell(imported.written));
    page.field("there already", cell(imported.same));
    page.field(differ, cell(imported.differ.len()));
    page.field("on leases, left out", cell(imported.leased));
    if !imported.differ.is_empty() {
        page.table(
            [col(if summary.replaced { "written over" } else { "differs" })],
            imported.differ.iter().map(|key| [crate::format::Cell::toned(key, Tone::Warn)]),
        );
    }
}
