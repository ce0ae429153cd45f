//! Cutting a reply to what the client can take.

use hickory_proto::op::{Header, Message};
use hickory_proto::rr::Record;
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

/// Length of an OPT record without options: root name, type, class, TTL, length.
const OPT: usize = 11;

/// Cuts a reply to `limit` bytes: first what is only helpful, then whole answers from the end, and only then says so (TC), so
/// that a client asks again over TCP. The OPT record always stays (RFC 6891 section 7), as do the first answers: a client
/// that knows no TCP has use for them.
pub(super) fn fit(reply: &mut Message, limit: usize) {
    if at_most(reply) <= limit || length(reply).is_some_and(|l| l <= limit) {
        return;
    }
    reply.additionals.clear();
    if length(reply).is_some_and(|l| l <= limit) {
        return;
    }
    reply.metadata.truncation = true;
    let answers = std::mem::take(&mut reply.answers);
    let authorities = std::mem::take(&mut reply.authorities);
    let (section, records) = if answers.is_empty() { (false, authorities) } else { (true, answers) };
    let keep = fitting(reply, &records, limit).unwrap_or(0);
    let kept: Vec<Record> = records.into_iter().take(keep).collect();
    if section {
        reply.answers = kept;
    } else {
        reply.authorities = kept;
    }
}

/// How many of these records go behind the questions and before the OPT record.
fn fitting(reply: &Message, records: &[Record], limit: usize) -> Option<usize> {
    let mut buffer = Vec::with_capacity(limit);
    let mut encoder = BinEncoder::new(&mut buffer);
    // Only the room counts; the header itself is written when the reply is sent.
    let _ = encoder.place::<Header>().ok()?;
    for query in &reply.queries {
        query.emit(&mut encoder).ok()?;
    }
    let limit = limit.checked_sub(if reply.edns.is_some() { OPT } else { 0 })?;
    let fits = |record: &&Record| record.emit(&mut encoder).is_ok() && encoder.len() <= limit;
    Some(records.iter().take_while(fits).count())
}

/// The length on the wire; `None` if it is more than any message can have.
fn length(reply: &Message) -> Option<usize> {
    let mut buffer = Vec::with_capacity(1024);
    let mut encoder = BinEncoder::new(&mut buffer);
    reply.emit(&mut encoder).ok()?;
    // Cut by the encoder's own limit, it is longer than what was written.
    let cut = buffer.get(2).is_none_or(|flags| flags & 0x02 != 0);
    (!cut || reply.metadata.truncation).then_some(buffer.len())
}

/// A bound that costs no encoding: names uncompressed, data as large as the types that are common can be.
fn at_most(reply: &Message) -> usize {
    use hickory_proto::rr::RData;
    let data = |r: &Record| match &r.data {
        RData::A(_) => Some(4),
        RData::AAAA(_) => Some(16),
        RData::SRV(srv) => Some(8 + srv.target.len()),
        RData::CNAME(name) => Some(1 + name.0.len()),
        RData::SOA(soa) => Some(22 + soa.mname.len() + soa.rname.len()),
        _ => None,
    };
    let queries: usize = reply.queries.iter().map(|q| q.name().len() + 5).sum();
    let records = reply.answers.iter().chain(&reply.authorities).chain(&reply.additionals);
    // An unknown length is longer than any limit.
    let records = records.map(|r| Some(r.name.len() + 11 + data(r)?)).try_fold(0_usize, |sum, len| Some(sum + len?));
    records.map_or(usize::MAX, |records| 12 + queries + records + OPT)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::op::{Edns, OpCode, Query};
    use hickory_proto::rr::rdata::{A, TXT};
    use hickory_proto::rr::{Name, RData, RecordType};

    use super::*;

    fn reply(answers: usize, additionals: usize) -> Message {
        let name = Name::from_ascii("many.skydns.local.").unwrap();
        let record = |n: usize| {
            let n = u32::try_from(n).unwrap();
            Record::from_rdata(name.clone(), 30, RData::A(A(Ipv4Addr::from(0x0a00_0000 + n))))
        };
        let mut reply = Message::response(7, OpCode::Query);
        reply.add_query(Query::query(name.clone(), RecordType::A));
        reply.set_edns(Edns::new());
        reply.add_answers((0..answers).map(record));
        reply.add_additionals((0..additionals).map(record));
        reply
    }

    #[test]
    fn a_reply_that_fits_is_left_alone() {
        let mut some = reply(3, 3);
        fit(&mut some, 512);
        assert_eq!((some.answers.len(), some.additionals.len(), some.truncation), (3, 3, false));
    }

    #[test]
    fn what_is_only_helpful_goes_first_and_unsaid() {
        let mut some = reply(10, 60);
        fit(&mut some, 512);
        assert_eq!((some.answers.len(), some.additionals.len(), some.truncation), (10, 0, false));
    }

    #[test]
    fn cut_replies_say_so_keep_their_opt_and_use_the_room() {
        for limit in [512, 600, 1232] {
            let mut many = reply(500, 1);
            fit(&mut many, limit);
            let bytes = many.to_vec().unwrap();
            assert!(bytes.len() <= limit && bytes.len() + 16 > limit, "{} of {limit}", bytes.len());
            let read = Message::from_vec(&bytes).unwrap();
            assert!(read.truncation && read.edns.is_some());
            assert_eq!(read.answers.len(), many.answers.len());
        }
    }

    #[test]
    fn more_than_tcp_takes_is_cut_too() {
        let mut huge = reply(0, 0);
        let text = vec![b'x'; 255];
        let texts = |n: u8| RData::TXT(TXT::from_bytes([&[n][..]].into_iter().chain((0..120).map(|_| &*text)).collect()));
        huge.add_answers((0..3).map(|n| Record::from_rdata(Name::root(), 1, texts(n))));
        fit(&mut huge, usize::from(u16::MAX));
        assert_eq!((huge.answers.len(), huge.truncation), (2, true));
        assert!(Message::from_vec(&huge.to_vec().unwrap()).unwrap().edns.is_some());
    }

    #[test]
    fn the_cheap_bound_is_never_too_low() {
        for n in 0..40 {
            let some = reply(n, n);
            assert!(at_most(&some) >= length(&some).unwrap());
        }
    }
}
