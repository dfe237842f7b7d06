//! `nodens explain`: each query that a stub resolver in a Pod sends for a name, and what becomes of it here.
//!
//! | module | what |
//! |---|---|
//! | [`question`] | what is asked |
//! | [`search`] | the names that a stub resolver tries |
//! | [`dry_run`] | one query, sent through the chain without effect |
//! | [`answer`] | all of them, and what they mean |
//! | [`text`] | the same for people |

pub mod answer;
pub mod dry_run;
pub mod question;
pub mod search;
pub mod text;
