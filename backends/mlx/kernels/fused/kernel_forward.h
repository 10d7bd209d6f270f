// All time steps of one sequence, by the threads of one group; `kernel.py` names the arrays.
// Thread `place` owns the units place, place + THREADS, ... of every vector and column of every
// matrix, and in a read the one stored state of each tile that has its place.
FWT_SHARED float state[SIZE];  // h, then s_k
FWT_SHARED float slow[SIZE];   // W h + C x
FWT_SHARED float total[SIZE];  // the bracket
FWT_SHARED float scores[THREADS];
FWT_SHARED float scratch[THREADS + FWT_PARTS];

const int steps = plan[0];
const int batch = plan[1];
const int chunk = plan[2];
const int inner = plan[3];
const bool norm = plan[4] != 0;
const bool wipe = plan[5] != 0;
const bool given_h = plan[6] != 0;
const bool given_fast = plan[7] != 0;
const int begin = plan[8];  // A is not there before it; 0 times what is not a number is none
FWT_DEVICE const int* which = plan + 9;
FWT_DEVICE const int* stores = plan + 9 + steps;
const int turns = inner > 0 ? inner : (norm ? 1 : 0);
const long row = long(batch) * SIZE;       // from a time step to the next
const long mine = long(sequence) * SIZE;   // this sequence in a time step
const long square = long(SIZE) * SIZE;
FWT_DEVICE float* past = out + mine;

for (int i = place; i < SIZE; i += THREADS) state[i] = given_h ? h[mine + i] : 0.0f;
bool alive = true;  // whether it was not wiped
FWT_BARRIER;
for (int start = 0; start < steps; start += chunk) {
  const int end = fwt_least(start + chunk, steps);
  const int number = start / chunk;
  const bool bordered = inner > 0 && (start > begin || given_fast);
  // A as this chunk finds it
  FWT_DEVICE const float* border = start_fast;
  if (bordered) border = number > 0 ? borders + (long(number - 1) * batch + sequence) * square
                                      : start_fast + sequence * square;
  for (int t = start; t < end; ++t) {
    FWT_DEVICE const float* used = w + which[t] * square;
    for (int i = place; i < SIZE; i += THREADS) {
      float found = z[t * row + mine + i];
      for (int j = 0; j < SIZE; ++j) found += used[j * SIZE + i] * (alive ? state[j] : 0.0f);
      slow[i] = found;
    }
    FWT_BARRIER;  // all have read h
    for (int i = place; i < SIZE; i += THREADS) state[i] = fwt_relu(slow[i]);
    for (int k = 0; k < turns; ++k) {
      const long at = (long(k) * steps + t) * row + mine;
      for (int i = place; i < SIZE; i += THREADS) {
        total[i] = slow[i];
        if (inner > 0) queries[at + i] = state[i];
      }
      if (inner > 0) {
        FWT_BARRIER;  // the query is whole
        for (int first = start; first < t; first += THREADS) {
          const int tau = first + place;
          float score = 0.0f;
          if (tau < t && stores[tau] != 0) {
            for (int j = 0; j < SIZE; ++j) score += past[tau * row + j] * state[j];
            score *= weights[chunk - t + tau];
          }
          scores[place] = score;
          FWT_BARRIER;  // the scores of the tile are there
          const int count = fwt_least(THREADS, t - first);
          for (int i = place; i < SIZE; i += THREADS) {
            float found = total[i];
            for (int n = 0; n < count; ++n)
              if (stores[first + n] != 0) found += scores[n] * past[(first + n) * row + i];
            total[i] = found;
          }
          FWT_BARRIER;  // the scores have been used
        }
        if (bordered) {
          for (int i = place; i < SIZE; i += THREADS) {
            float found = 0.0f;
            for (int j = 0; j < SIZE; ++j) found += border[j * SIZE + i] * state[j];
            total[i] += powers[t - start] * found;
          }
        }
        FWT_BARRIER;  // all have read the query
      }
      if (norm) {
        float part = 0.0f;
        for (int i = place; i < SIZE; i += THREADS) part += total[i];
        const float mean = fwt_sum(scratch, part, place, THREADS) / SIZE;
        part = 0.0f;
        for (int i = place; i < SIZE; i += THREADS) {
          total[i] -= mean;
          part += total[i] * total[i];
        }
        const float variance = fwt_sum(scratch, part, place, THREADS) / SIZE;
        const float scale = FWT_RSQRT(variance + epsilon[0]);
        for (int i = place; i < SIZE; i += THREADS) {
          const float found = total[i] * scale;
          normal[at + i] = found;
          state[i] = fwt_relu(found * gain[i] + bias[i]);
        }
        if (place == 0) rstd[(long(k) * steps + t) * batch + sequence] = scale;
      } else {
        for (int i = place; i < SIZE; i += THREADS) state[i] = fwt_relu(total[i]);
      }
    }
    for (int i = place; i < SIZE; i += THREADS) past[t * row + i] = state[i];
    alive = !(wipe && stores[t] != 0);
    FWT_BARRIER;  // the state is whole, here and among the past
  }
  if (inner > 0 && end < steps) {
    FWT_DEVICE float* next = borders + (long(number) * batch + sequence) * square;
    for (int j = place; j < SIZE; j += THREADS) {
      for (int i = 0; i < SIZE; ++i) {
        float found = bordered ? powers[end - start] * border[i * SIZE + j] : 0.0f;
        for (int tau = start; tau < end; ++tau)
          if (stores[tau] != 0)
            found += weights[chunk - end + tau] * past[tau * row + i] * past[tau * row + j];
        next[i * SIZE + j] = found;  // no thread reads another's columns of A
      }
    }
  }
}
