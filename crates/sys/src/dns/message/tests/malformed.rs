//! Ten thousand messages that are almost questions, and as many that are almost answers: never more memory than so
//! much, and none that is kept.

use super::*;
use crate::counted::{Taken, taken};
use crate::mutants::{COUNT, Dice, bytes};

/// The longest that a resolver may answer over TCP.
const LONGEST: usize = MAX_ANSWER;

/// A question of each kind.
fn questions() -> Vec<Vec<u8>> {
    let long = format!("{0}.{0}.{0}.example", "a".repeat(63));
    vec![
        question("a.Example.org", Class::IN, Some((1400, 0))),
        question("example.org", Class::IN, None),
        question("version.bind", Class::CH, None),
        question(&long, Class::IN, Some((65535, 1))),
        question(".", Class::IN, Some((0, 0))),
    ]
}

/// An answer of each kind, to what [`check_resolver`] asks.
fn answers() -> Vec<Vec<u8>> {
    let ours = query("www.example.org", Rtype::A);
    let many = answer(&ours, |answer| {
        for last in 0..200 {
            answer.push((&ours.name, 60, A::from_octets(192, 0, 2, last))).unwrap();
        }
    });
    let circle = answer(&ours, |answer| {
        answer.push((&ours.name, 60, Cname::new(name("b.example.org")))).unwrap();
        answer.push((name("b.example.org"), 60, Cname::new(ours.name.clone()))).unwrap();
    });
    let mut compressed = MessageBuilder::from_target(StaticCompressor::new(Vec::new())).unwrap();
    compressed.header_mut().set_id(9);
    compressed.header_mut().set_qr(true);
    let mut asked = compressed.question();
    asked.push((&ours.name, ours.rtype)).unwrap();
    let mut chain = asked.answer();
    let alias = |number: usize| name(&format!("a{number}.www.example.org"));
    chain.push((&ours.name, 60, Cname::new(alias(0)))).unwrap();
    for number in 0..20 {
        chain.push((alias(number), 60, Cname::new(alias(number + 1)))).unwrap();
    }
    vec![rich(), many, circle, chain.finish().into_target(), answer(&ours, |_| {})]
}

/// What is done with each of them; the most that one took, in bytes.
fn all(seeds: &[Vec<u8>], seed: u64, check: impl Fn(&[u8])) -> usize {
    let mut dice = Dice::new(seed);
    let (mut most, mut kept) = (0, 0);
    for _ in 0..COUNT {
        let message = bytes(&mut dice, seeds, LONGEST);
        let one: Taken = taken(|| check(&message));
        most = most.max(one.most);
        kept += one.kept;
    }
    assert_eq!(kept, 0, "bytes are kept");
    most
}

#[test]
fn ten_thousand_questions_take_no_more_than_their_answers() {
    let most = all(&questions(), 3, check_client);
    assert!(most < 3 * LONGEST, "{most}");
}

#[test]
fn ten_thousand_answers_take_no_more_than_ten_of_the_longest() {
    let most = all(&answers(), 4, |bytes| check_resolver(bytes, Rtype::A));
    assert!(most < 10 * LONGEST, "{most}");
}

#[test]
fn the_answers_are_not_all_refused_at_once() {
    let mut dice = Dice::new(4);
    let (ours, rules) = (query("www.example.org", Rtype::A), rules(true, &[]));
    let seeds = answers();
    let mut kinds = [0; 4];
    for _ in 0..COUNT {
        kinds[match ours.answer(9, &bytes(&mut dice, &seeds, LONGEST), &rules) {
            Answer::NotOurs => 0,
            Answer::Truncated => 1,
            Answer::Failed(_) => 2,
            Answer::Ready { .. } => 3,
        }] += 1;
    }
    assert!([0, 2, 3].iter().all(|kind| kinds[*kind] > COUNT / 20), "{kinds:?}");
}
