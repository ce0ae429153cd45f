//! Which agent is asked: this host's, by its socket, or any host's, over TLS.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use weft_api::Credentials;

use crate::agent::Agent;
use crate::error::Error;

/// Above the options that every command has.
pub const EVERYWHERE: &str = "Options of every command";

/// What names the agent's socket where `--socket` does not.
const SOCKET_VARIABLE: &str = "WEFT_SOCKET";

/// What names an agent elsewhere where `--agent` does not.
const AGENT_VARIABLE: &str = "WEFT_AGENT";

/// Which agent is asked. A flag counts before a variable; of the two variables that of an agent elsewhere.
// clap's own `env` would show the options in every usage line, as if they were needed there, once the variables are set.
#[derive(Debug, Default, Args)]
pub struct PlaceArgs {
    #[arg(long, global = true, value_name = "PATH", help_heading = EVERYWHERE)]
    #[arg(help = format!("The agent's socket [env: {SOCKET_VARIABLE}] [default: {}]", weft_api::DEFAULT_SOCKET))]
    socket: Option<PathBuf>,
    #[arg(long, global = true, value_name = "URL", conflicts_with = "socket", help_heading = EVERYWHERE)]
    #[arg(help = format!("An agent elsewhere, https://HOST:PORT (weftd --api-listen) [env: {AGENT_VARIABLE}]"))]
    agent: Option<String>,
    /// Authorities that the certificate of --agent is checked against, PEM [env: WEFT_CACERT]
    #[arg(long, global = true, value_name = "FILE", help_heading = EVERYWHERE)]
    cacert: Option<PathBuf>,
    /// The certificate to show to --agent, PEM [env: WEFT_CERT]
    #[arg(long, global = true, value_name = "FILE", help_heading = EVERYWHERE)]
    cert: Option<PathBuf>,
    /// Key of that certificate, PEM [env: WEFT_KEY]
    #[arg(long, global = true, value_name = "FILE", help_heading = EVERYWHERE)]
    key: Option<PathBuf>,
}

impl PlaceArgs {
    /// The agent, with what the environment says where nothing else does.
    ///
    /// # Errors
    /// An address without what belongs to it, or files that cannot be used.
    pub fn agent(self, variable: impl Fn(&str) -> Option<OsString>) -> Result<Agent, Error> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let file = |given: Option<PathBuf>, name: &str| given.or_else(|| set(name).map(PathBuf::from));
        let url = match (self.agent, &self.socket) {
            (Some(url), _) => Some(url),
            (None, Some(_)) => None,
            (None, None) => set(AGENT_VARIABLE).map(|url| url.to_string_lossy().into_owned()),
        };
        let Some(url) = url else {
            let socket = file(self.socket, SOCKET_VARIABLE);
            return Ok(Agent::at(socket.unwrap_or_else(|| weft_api::DEFAULT_SOCKET.into())));
        };
        let needed = |given: Option<PathBuf>, name: &str, flag: &str| {
            let missing =
                || Error::Usage(format!("{url} is asked over TLS with a certificate on both sides: {flag} or {name} is missing"));
            file(given, name).ok_or_else(missing)
        };
        let credentials = Credentials {
            cacert: needed(self.cacert, "WEFT_CACERT", "--cacert")?,
            cert: needed(self.cert, "WEFT_CERT", "--cert")?,
            key: needed(self.key, "WEFT_KEY", "--key")?,
        };
        Agent::elsewhere(&url, &credentials).map_err(|e| Error::Usage(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(args: PlaceArgs, variables: &[(&str, &str)]) -> Result<String, String> {
        let variable = |name: &str| variables.iter().find(|(there, _)| *there == name).map(|(_, value)| OsString::from(value));
        args.agent(variable).map(|agent| agent.client().place()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_flag_counts_before_a_variable_and_nothing_is_this_hosts_socket() {
        let socket = |path: &str| PlaceArgs { socket: Some(path.into()), ..PlaceArgs::default() };
        assert_eq!(place(PlaceArgs::default(), &[]).unwrap(), weft_api::DEFAULT_SOCKET);
        assert_eq!(place(PlaceArgs::default(), &[("WEFT_SOCKET", "/v"), ("WEFT_AGENT", "")]).unwrap(), "/v");
        assert_eq!(place(socket("/f"), &[("WEFT_SOCKET", "/v"), ("WEFT_AGENT", "https://h:1")]).unwrap(), "/f");
        let why = place(PlaceArgs::default(), &[("WEFT_SOCKET", "/v"), ("WEFT_AGENT", "https://h:1")]).unwrap_err();
        assert!(why.contains("https://h:1") && why.contains("--cacert or WEFT_CACERT"), "{why}");
        let files = [("WEFT_CACERT", "/nonexistent"), ("WEFT_CERT", "/c"), ("WEFT_KEY", "/k")];
        let agent = |url: &str| PlaceArgs { agent: Some(url.to_owned()), ..PlaceArgs::default() };
        assert!(place(agent("https://h:1"), &files[..2]).unwrap_err().contains("--key or WEFT_KEY"));
        assert!(place(agent("https://h:1"), &files).unwrap_err().contains("/nonexistent"));
        assert!(place(agent("h:1"), &files).unwrap_err().contains("https://HOST:PORT"));
    }
}
