//! What the tests of the decisions share: the language of the scenario files, and a node that exists only in memory.

#![allow(dead_code, unreachable_pub)]

pub mod checks;
pub mod clock;
pub mod node;
pub mod render;
pub mod statement;
pub mod world;
