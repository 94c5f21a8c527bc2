// Idea: group the terms by the row they go to, so that a row is summed and written once, by whoever holds it.
// Source: a counting sort (Knuth, The Art of Computer Programming 3, 5.2) whose buckets may lie in any order.
// Shapes: tables [vocab, dim] f32; centers, contexts [batch], negatives [batch, k] i32. Rows 0..vocab are in_table's,
//         vocab..2·vocab out_table's. Terms: batch of in_table, then batch · (1+k) of out_table; ranks [terms] u32.
//         counts, starts [2·vocab] u32; entries [terms] (row of the term, factor); names [terms] u32: the pair, or the
//         target, of an entry. few, pieces: (row, start, count, number of the piece); sizes: terms placed, few, pieces,
//         then arrivals [pieces]; counts and sizes are zero before.
// Plan: count: a thread a term takes a number at its row, a block's terms of one row together; place: a thread a row asks
//       for room for its terms; pairs: a warp a pair: scores and factors, the gradient of the center, every factor put
//       at its row; rows: 16 lanes a row of at most 16 terms; of the others a block takes a piece of 256 terms, and the
//       last to arrive at a row adds up its pieces. Further blocks of pairs copy the rows that no term names.
// Numerics: f32. The numbers are taken in the order of arrival, so a row puts its terms in order before it adds them:
//           two runs give equal bits.
// Limits: dim % 4 == 0; terms < 2^31, vocab < 2^29. Each launch begins while the one before ends; on devices that cannot,
//         in order.
// Tried on 16,384 pairs of 50,257 words, H200, none faster: tables fetched into the L2 while terms are counted (5 us more, cold
//   or warm: the memory's rate does not bind); 5 or 6 blocks a multiprocessor (they spill); pieces of 64 or 128 terms; 8
//   rows of a piece in flight; counts cleared by a kernel that overlaps. Trips to memory bind: a warp of the pairs' kernel
//   waits for them for 10 of the 17 cycles between its instructions.
// Target: compute_90
// The launches, in order:
#include "embedding_word2vec_terms.cuh"  // word2vec_count, word2vec_place
#include "embedding_word2vec_pairs.cuh"  // word2vec_pairs, word2vec_pairs_wide
#include "embedding_word2vec_rows.cuh"   // word2vec_rows
