//! The agents with what they have and who speaks to them, and what becomes of them at random.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use weft_model::ids::{NodeName, Revision};
use weft_model::keys::RecordPath;
use weft_store::etcd::EtcdConfig;

use super::agents::{Agent, attachment};
use super::book::Book;
use super::programs::{Program, Way};
use super::{AGENTS, VIEWS, lock, random};
use crate::registrar::records;
use crate::state::Attachment;
use crate::view::View;

/// Containers of an agent, at most.
const MOST: usize = 3;

/// Ids that several agents want.
const CONTESTED: usize = 5;

/// The agents, by number; none is dead.
pub struct Crowd {
    config: EtcdConfig,
    book: Arc<Mutex<Book>>,
    views: Vec<View>,
    agents: Vec<Option<Agent>>,
    wanted: Vec<Vec<Attachment>>,
    ways: Vec<Way>,
    programs: Vec<Program>,
    /// Where the agents have their state.
    dir: TempDir,
}

fn node(number: usize) -> NodeName {
    format!("n{number}").parse().unwrap()
}

impl Crowd {
    pub fn new(config: EtcdConfig, book: Arc<Mutex<Book>>, views: Vec<View>) -> Self {
        let mut crowd = Self {
            config,
            book,
            views,
            agents: (0..AGENTS).map(|_| None).collect(),
            wanted: vec![Vec::new(); AGENTS],
            ways: (0..AGENTS).map(|_| Way::default()).collect(),
            programs: Vec::new(),
            dir: tempfile::tempdir().unwrap(),
        };
        for number in 0..AGENTS {
            crowd.wanted[number].push(attachment(&format!("c{number}-0"), "default/app0", 80, number));
            crowd.start(number);
            crowd.start_program(number, format!("p{number}-0"));
        }
        crowd
    }

    pub fn lives(&self, number: usize) -> bool {
        self.agents[number].is_some()
    }

    /// Whoever of the dead is to be alive in the end.
    pub fn of_the_dead(&self, owner: &NodeName) -> bool {
        (0..AGENTS).any(|n| self.agents[n].is_none() && node(n) == *owner)
    }

    fn view(&self, number: usize) -> View {
        self.views[number % VIEWS].clone()
    }

    pub fn start(&mut self, number: usize) {
        let agent = Agent::start(self.config.clone(), &node(number), number, self.view(number), self.dir.path());
        *lock(&self.ways[number]) = Some(agent.door());
        self.agents[number] = Some(agent);
        // What was attached is attached: a container outlives its agent.
        self.publish(number);
    }

    fn start_program(&mut self, number: usize, id: String) {
        let program = Program::start(number, node(number), id, self.ways[number].clone(), self.book.clone());
        self.programs.push(program);
    }

    /// A program more, or one less: heard no more, or withdrawn.
    pub async fn change_programs(&mut self) {
        if self.programs.len() < AGENTS || random(2) == 0 && self.programs.len() < 2 * AGENTS {
            let (number, contested) = (random(AGENTS), format!("shared-{}", random(CONTESTED)));
            // Twice on one host would be one registration.
            let is_free = !self.programs.iter().any(|p| p.number == number && p.id == contested);
            let id = if random(4) == 0 && is_free { contested } else { format!("p{number}-{}", random(1_000_000)) };
            return self.start_program(number, id);
        }
        let program = self.programs.swap_remove(random(self.programs.len()));
        if random(2) == 0 {
            lock(&self.book).seen.silent += 1;
            program.kill().await;
        } else {
            lock(&self.book).seen.withdrawn += 1;
            // It waits for the store, and nobody waits for it.
            tokio::spawn(program.withdraw());
        }
    }

    /// Those whose agent is dead, and some others, are heard no more.
    pub async fn end_programs(&mut self) {
        for program in std::mem::take(&mut self.programs) {
            if self.agents[program.number].is_none() || random(3) == 0 {
                program.kill().await;
            } else {
                self.programs.push(program);
            }
        }
    }

    pub async fn end(mut self) {
        for program in std::mem::take(&mut self.programs) {
            program.kill().await;
        }
        for number in 0..AGENTS {
            self.kill(number);
        }
    }

    /// The keys of what one agent has, but for those that others want too, and when each was written.
    fn keys(&self, number: usize) -> BTreeMap<String, Revision> {
        let view = self.view(number);
        let Some(snapshot) = view.borrow().clone() else { return BTreeMap::new() };
        let own = self.wanted[number].iter().filter(|attachment| !attachment.id.as_str().starts_with("contested"));
        let parts = own.flat_map(|attachment| records::parts(&snapshot, &node(number), attachment));
        let written = |path: &RecordPath| snapshot.record(path).map_or(snapshot.revision(), |record| record.modified);
        parts.map(|part| (snapshot.layout().record(&part.path), written(&part.path))).collect()
    }

    fn publish(&mut self, number: usize) {
        let keys = self.keys(number);
        let mine = node(number);
        // Before anything is withdrawn: what is no longer wanted is no longer promised.
        lock(&self.book).acknowledged.retain(|key, (owner, _)| *owner != mine || keys.contains_key(key));
        let wanted = self.wanted[number].clone();
        if let Some(agent) = &mut self.agents[number] {
            agent.publish(wanted);
        }
    }

    pub fn kill(&mut self, number: usize) {
        let mine = node(number);
        {
            let mut book = lock(&self.book);
            book.acknowledged.retain(|_, (owner, _)| *owner != mine);
            book.registered.retain(|_, promise| promise.owner != mine);
            book.seen.deaths += 1;
        }
        *lock(&self.ways[number]) = None;
        if let Some(agent) = self.agents[number].take() {
            agent.kill();
        }
    }

    /// Another container, one less, or another port.
    pub fn change(&mut self, number: usize) {
        let port = 1000 + u16::try_from(random(1000)).unwrap();
        let wanted = &mut self.wanted[number];
        match random(4) {
            0 if !wanted.is_empty() => drop(wanted.swap_remove(random(wanted.len()))),
            1 if !wanted.is_empty() => {
                let at = random(wanted.len());
                wanted[at].port = Some(port);
            }
            2 => {
                let (id, service) = (format!("contested-{}", random(CONTESTED)), "default/shared");
                wanted.retain(|attachment| attachment.id.as_str() != id);
                wanted.push(attachment(&id, service, port, number));
            }
            _ => {
                let id = format!("c{number}-{}", random(1_000_000));
                wanted.push(attachment(&id, &format!("default/app{}", random(10)), port, number));
            }
        }
        while wanted.len() > MOST {
            wanted.remove(0);
        }
        lock(&self.book).seen.changes += 1;
        self.publish(number);
    }

    /// Takes down what has been acknowledged since the last time.
    pub fn collect(&mut self) {
        for number in 0..self.agents.len() {
            let keys = self.keys(number);
            let Some(agent) = &mut self.agents[number] else { continue };
            if agent.acknowledges() {
                let mut book = lock(&self.book);
                book.seen.acknowledged += keys.len();
                book.acknowledged.extend(keys.into_iter().map(|(key, at)| (key, (node(number), at))));
            }
        }
    }

    pub fn is_settled(&self) -> bool {
        self.agents.iter().flatten().all(Agent::is_settled)
    }
}
