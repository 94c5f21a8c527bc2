//! `cp.async.bulk` without a tensor map, and what mbarriers answer.

use super::{
    family::Words,
    launches::{Launch, Launches},
};

const WORDS: usize = 512;

/// Copies between global and shared memory.
pub fn copies() -> Launches {
    let mut random = Words(16);
    let inputs = (0..WORDS).map(|_| random.next() as u32).collect();
    let sizes = [[0, 0, 16], [16, 32, 48], [1024, 512, 1024], [0, 0, 2048]];
    let launch = |entry: &str, [from, to, count]: [usize; 3]| Launch {
        entry: entry.to_owned(),
        map: None,
        numbers: [from, to, count].map(|n| n as u32).to_vec(),
        expected: Box::new(move |inputs| {
            let mut results = vec![u32::MAX; WORDS];
            results[to / 4..(to + count) / 4]
                .copy_from_slice(&inputs[from / 4..(from + count) / 4]);
            results
        }),
    };
    let instructions = ["bulk_load", "bulk_store"]
        .map(|entry| (entry.to_owned(), sizes.iter().map(|sizes| launch(entry, *sizes)).collect()));
    Launches {
        name: "bulk_copy",
        ptx: COPIES.to_owned(),
        inputs,
        threads: 128,
        words: WORDS,
        instructions: instructions.into(),
    }
}

/// What a single thread hears from an mbarrier of three arrivals, step by step.
pub fn mbarriers() -> Launches {
    // Pending arrivals before the first arrival; then whether phases are over, as the comments of the PTX say.
    const HEARD: [u32; 24] =
        [3, 0, 0, 1, 2, 1, 1, 1, 1, 0, 3, 2, 2, 1, 0, 0, 1, 1, 2, 1, 0, 1, 2, 0];
    let launch = Launch {
        entry: "mbarrier".into(),
        map: None,
        numbers: vec![],
        expected: Box::new(|_| HEARD.to_vec()),
    };
    Launches {
        name: "mbarrier",
        ptx: MBARRIERS.to_owned(),
        inputs: vec![0],
        threads: 1,
        words: HEARD.len(),
        instructions: vec![("sequence".into(), vec![launch])],
    }
}

const COPIES: &str = "// Bytes copied from global to shared memory, and back.
// Written by tests/vectors.rs; TOUCHSTONE_ACCEPT=1 writes it anew.
.version 8.4
.target sm_90
.address_size 64

.visible .entry bulk_load(.param .u64 inputs, .param .u64 results, .param .u32 from, .param .u32 to, .param .u32 count)
{
    .reg .pred %first, %done, %more;
    .reg .b32 %lane, %index, %address, %base, %barrier, %from, %to, %count, %word;
    .reg .b64 %at, %wide;
    .shared .align 128 .b8 memory[2048];
    .shared .align 8 .b64 barrier;
    mov.u32 %lane, %tid.x;
    mov.u32 %base, memory;
    mov.u32 %barrier, barrier;
    setp.eq.u32 %first, %lane, 0;
    mov.u32 %index, %lane;
CLEAR:
    mad.lo.u32 %address, %index, 4, %base;
    st.shared.b32 [%address], 0xffffffff;
    add.u32 %index, %index, 128;
    setp.lt.u32 %more, %index, 512;
    @%more bra CLEAR;
    @%first mbarrier.init.shared::cta.b64 [%barrier], 1;
    fence.proxy.async;
    bar.sync 0;
    @!%first bra WAIT;
    ld.param.u64 %at, [inputs];
    cvta.to.global.u64 %at, %at;
    ld.param.u32 %from, [from];
    ld.param.u32 %to, [to];
    ld.param.u32 %count, [count];
    cvt.u64.u32 %wide, %from;
    add.u64 %at, %at, %wide;
    add.u32 %address, %base, %to;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%barrier], %count;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%address], [%at], %count, [%barrier];
WAIT:
    mbarrier.try_wait.parity.shared::cta.b64 %done, [%barrier], 0;
    @!%done bra WAIT;
    mov.u32 %index, %lane;
COPY:
    mad.lo.u32 %address, %index, 4, %base;
    ld.shared.b32 %word, [%address];
    ld.param.u64 %at, [results];
    cvta.to.global.u64 %at, %at;
    mad.wide.u32 %at, %index, 4, %at;
    st.global.b32 [%at], %word;
    add.u32 %index, %index, 128;
    setp.lt.u32 %more, %index, 512;
    @%more bra COPY;
    ret;
}

.visible .entry bulk_store(.param .u64 inputs, .param .u64 results, .param .u32 from, .param .u32 to, .param .u32 count)
{
    .reg .pred %first, %more;
    .reg .b32 %lane, %index, %address, %base, %from, %to, %count, %word;
    .reg .b64 %at, %wide;
    .shared .align 128 .b8 memory[2048];
    mov.u32 %lane, %tid.x;
    mov.u32 %base, memory;
    setp.eq.u32 %first, %lane, 0;
    mov.u32 %index, %lane;
FILL:
    ld.param.u64 %at, [inputs];
    cvta.to.global.u64 %at, %at;
    mad.wide.u32 %at, %index, 4, %at;
    ld.global.b32 %word, [%at];
    mad.lo.u32 %address, %index, 4, %base;
    st.shared.b32 [%address], %word;
    add.u32 %index, %index, 128;
    setp.lt.u32 %more, %index, 512;
    @%more bra FILL;
    fence.proxy.async;
    bar.sync 0;
    @!%first bra DONE;
    ld.param.u64 %at, [results];
    cvta.to.global.u64 %at, %at;
    ld.param.u32 %from, [from];
    ld.param.u32 %to, [to];
    ld.param.u32 %count, [count];
    cvt.u64.u32 %wide, %to;
    add.u64 %at, %at, %wide;
    add.u32 %address, %base, %from;
    cp.async.bulk.global.shared::cta.bulk_group [%at], [%address], %count;
    cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0;
DONE:
    ret;
}
";

const MBARRIERS: &str = "// What one thread hears from an mbarrier of three arrivals.
// Written by tests/vectors.rs; TOUCHSTONE_ACCEPT=1 writes it anew.
.version 8.4
.target sm_90
.address_size 64

.visible .entry mbarrier(.param .u64 inputs, .param .u64 results)
{
    .reg .pred %p;
    .reg .b32 %r, %b;
    .reg .b64 %out, %s, %first, %second;
    .shared .align 8 .b64 barrier;
    mov.u32 %b, barrier;
    ld.param.u64 %out, [results];
    cvta.to.global.u64 %out, %out;
    mbarrier.init.shared::cta.b64 [%b], 3;
    // Phase 0: three arrivals, one by one.
    mbarrier.arrive.shared::cta.b64 %first, [%b];
    mbarrier.pending_count.b64 %r, %first;
    st.global.u32 [%out], %r;
    mbarrier.test_wait.shared::cta.b64 %p, [%b], %first;
    selp.u32 %r, 1, 0, %p;
    st.global.u32 [%out+4], %r;
    mbarrier.test_wait.parity.shared::cta.b64 %p, [%b], 0;
    selp.u32 %r, 1, 0, %p;
    st.global.u32 [%out+8], %r;
    mbarrier.test_wait.parity.shared::cta.b64 %p, [%b], 1;
    selp.u32 %r, 1, 0, %p;
    st.global.u32 [%out+12], %r;
    mbarrier.arrive.noComplete.shared::cta.b64 %s, [%b], 1;
    mbarrier.pending_count.b64 %r, %s;
    st.global.u32 [%out+16], %r;
    mbarrier.arrive.shared::cta.b64 %second, [%b];
    mbarrier.pending_count.b64 %r, %second;
    st.global.u32 [%out+20], %r;
    mbarrier.test_wait.shared::cta.b64 %p, [%b], %first;
    selp.u32 %r, 1, 0, %p;
    st.global.u32 [%out+24], %r;
    mbarrier.test_wait.shared::cta.b64 %p, [%b], %second;
    selp.u32 %r, 1, 0, %p;
    st.global.u32 [%out+28], %r;
    mbarrier.test_wait.parity.shared::cta.b64 %p, [%b], 0;
    selp.u32 %r, 1, 0, %p;
    st.global.u32 [%out+32], %r;
    mbarrier.test_wait.parity.shared::cta.b64 %p, [%b], 1;
    selp.u32 %r, 1, 0, %p;
    st.global.u32 [%out+36], %r;
    // Phase 1: one leaves for good, two arrive at once.
    mbarrier.arrive_drop.shared::cta.b64 %s, [%b];
    mbarrier.pending_count.b64 %r, %s;
    st.global.u32 [%out+40], %r;
    mbarrier.arrive.release.cta.shared::cta.b64 %s, [%b], 2;
    mbarrier.pending_count.b64 %r, %s;
    st.global.u32 [%out+44], %r;
    // Phase 2: two arrivals, and bytes.
    mbarrier.arrive.shared::cta.b64 %s, [%b];
    mbarrier.pending_count.b64 %r, %s;
    st.global.u32 [%out+48], %r;
    mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%b], 32;
    mbarrier.arrive.shared::cta.b64 %s, [%b];
    mbarrier.pending_count.b64 %r, %s;
    st.global.u32 [%out+52], %r;
    mbarrier.test_wait.shared::cta.b64 %p, [%b], %s;
    selp.u32 %r, 1, 0, %p;
    st.global.u32 [%out+56], %r;
    mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%b], 16;
    mbarrier.test_wait.shared::cta.b64 %p, [%b], %s;
    selp.u32 %r, 1, 0, %p;
    st.global.u32 [%out+60], %r;
    mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%b], 16;
    mbarrier.test_wait.shared::cta.b64 %p, [%b], %s;
    selp.u32 %r, 1, 0, %p;
    st.global.u32 [%out+64], %r;
    mbarrier.try_wait.acquire.cta.shared::cta.b64 %p, [%b], %s;
    selp.u32 %r, 1, 0, %p;
    st.global.u32 [%out+68], %r;
    // Phase 3: bytes expected with an arrival, and brought before the last one.
    mbarrier.arrive.expect_tx.shared::cta.b64 %s, [%b], 64;
    mbarrier.pending_count.b64 %r, %s;
    st.global.u32 [%out+72], %r;
    mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%b], 64;
    mbarrier.arrive.shared::cta.b64 %s, [%b];
    mbarrier.pending_count.b64 %r, %s;
    st.global.u32 [%out+76], %r;
    mbarrier.test_wait.parity.shared::cta.b64 %p, [%b], 0;
    selp.u32 %r, 1, 0, %p;
    st.global.u32 [%out+80], %r;
    mbarrier.test_wait.parity.shared::cta.b64 %p, [%b], 1;
    selp.u32 %r, 1, 0, %p;
    st.global.u32 [%out+84], %r;
    // Another life.
    mbarrier.inval.shared::cta.b64 [%b];
    mbarrier.init.shared::cta.b64 [%b], 2;
    mbarrier.arrive.shared::cta.b64 %s, [%b];
    mbarrier.pending_count.b64 %r, %s;
    st.global.u32 [%out+88], %r;
    mbarrier.test_wait.shared::cta.b64 %p, [%b], %s;
    selp.u32 %r, 1, 0, %p;
    st.global.u32 [%out+92], %r;
    ret;
}
";
