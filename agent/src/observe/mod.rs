//! Queries as they are answered, for `nodens observe`, and what they have in common, for `nodens top`.
//!
//! ```text
//! worker    server::answer -> ring      a record of some 80 bytes for each query that is wanted; a full ring drops it
//! control   ring -> readers -> sockets  while a client observes: every query, 200 times a second
//!           ring -> top                 always: all of few queries, a sample of many, once a second
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`ring`] | what the workers write, one ring for each |
//! | [`record`] | one query, in a ring and on the way to a reader |
//! | [`filter`] | which queries a reader wants |
//! | [`heavy`] | the most frequent keys of a stream, in bounded memory |
//! | [`top`] | names, clients, codes and the slowest queries of the last minute |
//! | [`lists`] | the search lists of clients, by which a name can be cut |
//! | [`waste`] | queries that search lists make in vain |
//! | [`namespaces`] | queries by the namespace of the Pod that asks |
//! | [`readers`] | takes records out of the rings and hands them on |
//! | [`cli`] | `nodens observe` and `nodens top` |

pub mod cli;
pub mod filter;
pub mod heavy;
pub mod lists;
pub mod namespaces;
pub mod readers;
pub mod record;
pub mod ring;
pub mod top;
pub mod waste;
