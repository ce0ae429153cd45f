//! What the agent's binary and its kernel tests share: the code that touches the kernel. `main.rs` is the agent itself.

pub mod kernel;
