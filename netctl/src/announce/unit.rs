//! Which process a systemd unit is just now: `systemctl show` says, where there is a `systemctl`.

use std::io;
use std::process::Command;

use crate::run::RunError;

/// The main process of a unit; none while it is not running.
///
/// # Errors
/// There is no `systemctl`, or it says no.
pub async fn main_pid(unit: &str) -> Result<Option<i32>, RunError> {
    let failed = |why: String| RunError::Unit { unit: unit.to_owned(), why };
    let name = unit.to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        Command::new("systemctl").args(["show", "--property=LoadState,MainPID", "--", &name]).output()
    });
    let output = match asked.await {
        Ok(Ok(output)) => output,
        Ok(Err(e)) if e.kind() == io::ErrorKind::NotFound => {
            return Err(failed("there is no systemctl here; --pid follows a process by its number".to_owned()));
        }
        Ok(Err(e)) => return Err(failed(e.to_string())),
        Err(e) => return Err(failed(e.to_string())),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(failed(if said.is_empty() { output.status.to_string() } else { said }));
    }
    read(&String::from_utf8_lossy(&output.stdout)).map_err(failed)
}

/// What `systemctl show --property=LoadState,MainPID` prints, one property a line in any order. A unit that does not exist is
/// shown as well, as not found.
fn read(text: &str) -> Result<Option<i32>, String> {
    let property = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    match property("LoadState") {
        Some("not-found") => return Err("there is no such unit".to_owned()),
        Some("masked") => return Err("it is masked".to_owned()),
        _ => {}
    }
    let pid = property("MainPID").ok_or_else(|| "systemctl tells of no main process: is it a service?".to_owned())?;
    let pid: i32 = pid.trim().parse().map_err(|_| format!("systemctl tells of a main process {pid:?}, which is no number"))?;
    Ok(Some(pid).filter(|pid| *pid > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemctl_prints_is_read() {
        assert_eq!(read("LoadState=loaded\nMainPID=712\n"), Ok(Some(712)));
        assert_eq!(read("MainPID=0\nLoadState=loaded\n"), Ok(None));
        assert!(read("MainPID=0\nLoadState=not-found\n").unwrap_err().contains("no such unit"));
        assert!(read("LoadState=loaded\n").unwrap_err().contains("is it a service?"), "a mount or a slice has none");
        assert!(read("MainPID=x\n").unwrap_err().contains("no number"));
    }
}
