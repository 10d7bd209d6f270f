// The time loop of one sequence in reverse, by the threads of one group; `kernel.py` names the
// arrays, `kernel_forward.h` says who owns what. A is not built: within a chunk a stored state gets
// its gradient from the later reads, across a border from G, the gradient of A at the border.
FWT_SHARED float ds[SIZE];      // the gradient of h, then of s_k
FWT_SHARED float change[SIZE];  // of W h + C x: of the step after, then of this one
FWT_SHARED float kept[SIZE];    // h(t), then s_k
FWT_SHARED float du[SIZE];      // of the bracket
FWT_SHARED float sum_gain[SIZE];
FWT_SHARED float sum_bias[SIZE];
FWT_SHARED float scores[THREADS];
FWT_SHARED float changes[THREADS];
FWT_SHARED float scratch[THREADS + FWT_PARTS];

const int steps = plan[0];
const int batch = plan[1];
const int chunk = plan[2];
const int inner = plan[3];
const bool norm = plan[4] != 0;
const bool wipe = plan[5] != 0;
const bool given_fast = plan[7] != 0;
const int begin = plan[8];  // A is not there before it; 0 times what is not a number is none
FWT_DEVICE const int* which = plan + 9;
FWT_DEVICE const int* stores = plan + 9 + steps;
const int turns = inner > 0 ? inner : (norm ? 1 : 0);
const int chunks = (steps + chunk - 1) / chunk;
const long row = long(batch) * SIZE;
const long mine = long(sequence) * SIZE;
const long square = long(SIZE) * SIZE;
FWT_DEVICE const float* past = out + mine;
FWT_DEVICE float* slope_weights = dweights + long(sequence) * chunk;
FWT_DEVICE float* slope_powers = dpowers + long(sequence) * (chunk + 1);

for (int i = place; i < SIZE; i += THREADS) sum_gain[i] = sum_bias[i] = 0.0f;
for (int n = place; n < chunk; n += THREADS) slope_weights[n] = 0.0f;
for (int n = place; n <= chunk; n += THREADS) slope_powers[n] = 0.0f;
for (int number = chunks - 1; number >= 0; --number) {
  const int start = number * chunk;
  const int end = fwt_least(start + chunk, steps);
  const bool bordered = inner > 0 && (start > begin || given_fast);
  // whether G at the end is there
  const bool carried = inner > 0 && number < chunks - 1 && (end > begin || given_fast);
  FWT_DEVICE const float* border = start_fast;
  if (bordered) border = number > 0 ? borders + (long(number - 1) * batch + sequence) * square
                                      : start_fast + sequence * square;
  FWT_DEVICE float* slope = dfast;
  if (bordered || carried) slope = dfast + sequence * square;
  for (int t = end - 1; t >= start; --t) {
    const bool stored = stores[t] != 0;
    const bool seen = t + 1 < steps && !(wipe && stored);
    FWT_DEVICE const float* used = w + (seen ? which[t + 1] : 0) * square;
    for (int i = place; i < SIZE; i += THREADS) {
      float found = grad[t * row + mine + i];
      if (seen)
        for (int j = 0; j < SIZE; ++j) found += used[j * SIZE + i] * change[j];
      ds[i] = found;
      kept[i] = past[t * row + i];
    }
    FWT_BARRIER;  // all have read the change of the step after; h is whole
    for (int i = place; i < SIZE; i += THREADS) change[i] = 0.0f;
    if (inner > 0 && stored) {
      // read n is bracket n % S of step n / S
      for (int first = (t + 1) * inner; first < end * inner; first += THREADS) {
        const int n = first + place;
        float score = 0.0f;
        float other = 0.0f;
        if (n < end * inner) {
          const int later = n / inner;
          const long at = (long(n % inner) * steps + later) * row + mine;
          for (int j = 0; j < SIZE; ++j) {
            score += kept[j] * queries[at + j];
            other += kept[j] * brackets[at + j];
          }
          score *= weights[chunk - later + t];
          other *= weights[chunk - later + t];
        }
        scores[place] = score;
        changes[place] = other;
        FWT_BARRIER;  // the scores of the tile are there
        const int count = fwt_least(THREADS, end * inner - first);
        for (int m = 0; m < count; ++m) {
          const int read = first + m;
          const long at = (long(read % inner) * steps + read / inner) * row + mine;
          for (int i = place; i < SIZE; i += THREADS)
            ds[i] += scores[m] * brackets[at + i] + changes[m] * queries[at + i];
        }
        FWT_BARRIER;  // the scores have been used
      }
      if (carried) {
        float part = 0.0f;
        for (int i = place; i < SIZE; i += THREADS) {
          float found = 0.0f;
          for (int j = 0; j < SIZE; ++j)
            found += (slope[j * SIZE + i] + slope[i * SIZE + j]) * kept[j];
          ds[i] += weights[chunk - end + t] * found;
          part += 0.5f * found * kept[i];
        }
        const float found = fwt_sum(scratch, part, place, THREADS);
        if (place == 0) slope_weights[chunk - end + t] += found;
      }
    }
    if (turns == 0)
      for (int i = place; i < SIZE; i += THREADS) change[i] = kept[i] <= 0.0f ? 0.0f : ds[i];
    for (int k = turns - 1; k >= 0; --k) {
      const long at = (long(k) * steps + t) * row + mine;
      FWT_DEVICE const float* result =
          k + 1 < turns ? queries + at + long(steps) * row : past + t * row;
      float mean = 0.0f;
      float along = 0.0f;
      for (int i = place; i < SIZE; i += THREADS) {
        const float dy = result[i] <= 0.0f ? 0.0f : ds[i];
        du[i] = dy;
        if (norm) {
          sum_gain[i] += dy * normal[at + i];
          sum_bias[i] += dy;
          du[i] = dy * gain[i];
          mean += du[i];
          along += du[i] * normal[at + i];
        }
      }
      if (norm) {
        mean = fwt_sum(scratch, mean, place, THREADS) / SIZE;
        along = fwt_sum(scratch, along, place, THREADS) / SIZE;
        const float scale = rstd[(long(k) * steps + t) * batch + sequence];
        for (int i = place; i < SIZE; i += THREADS)
          du[i] = scale * (du[i] - mean - normal[at + i] * along);
      }
      for (int i = place; i < SIZE; i += THREADS) change[i] += du[i];
      if (inner > 0) {
        for (int i = place; i < SIZE; i += THREADS) {
          brackets[at + i] = du[i];
          kept[i] = queries[at + i];
          ds[i] = 0.0f;
        }
        FWT_BARRIER;  // the query and its change are whole
        for (int first = start; first < t; first += THREADS) {
          const int tau = first + place;
          float other = 0.0f;
          if (tau < t && stores[tau] != 0) {
            float score = 0.0f;
            for (int j = 0; j < SIZE; ++j) {
              score += past[tau * row + j] * kept[j];
              other += past[tau * row + j] * du[j];
            }
            slope_weights[chunk - t + tau] += score * other;
            other *= weights[chunk - t + tau];
          }
          changes[place] = other;
          FWT_BARRIER;  // the scores of the tile are there
          const int count = fwt_least(THREADS, t - first);
          for (int i = place; i < SIZE; i += THREADS) {
            float found = ds[i];
            for (int n = 0; n < count; ++n)
              if (stores[first + n] != 0) found += changes[n] * past[(first + n) * row + i];
            ds[i] = found;
          }
          FWT_BARRIER;  // the scores have been used
        }
        if (bordered) {
          float part = 0.0f;
          for (int i = place; i < SIZE; i += THREADS) {
            float found = 0.0f;
            for (int j = 0; j < SIZE; ++j) found += border[j * SIZE + i] * du[j];
            ds[i] += powers[t - start] * found;
            part += found * kept[i];
          }
          const float found = fwt_sum(scratch, part, place, THREADS);
          if (place == 0) slope_powers[t - start] += found;
        }
      }
    }
    for (int i = place; i < SIZE; i += THREADS) {
      if (inner > 0 && !(kept[i] <= 0.0f)) change[i] += ds[i];  // kept is s_0 by now
      dz[t * row + mine + i] = change[i];
    }
    FWT_BARRIER;  // the change is whole, and those of the brackets among the later reads
  }
  if (bordered) {
    float part = 0.0f;
    for (int j = place; j < SIZE; j += THREADS) {
      for (int i = 0; i < SIZE; ++i) {
        float found = 0.0f;
        if (carried) {
          const float old = slope[i * SIZE + j];
          part += old * border[i * SIZE + j];
          found = powers[end - start] * old;
        }
        for (int t = start; t < end; ++t) {
          for (int k = 0; k < inner; ++k) {
            const long at = (long(k) * steps + t) * row + mine;
            found += powers[t - start] * queries[at + i] * brackets[at + j];
          }
        }
        slope[i * SIZE + j] = found;
      }
    }
    const float found = fwt_sum(scratch, part, place, THREADS);
    if (place == 0) slope_powers[end - start] += found;
  }
}
for (int i = place; i < SIZE; i += THREADS) {
  dgain[mine + i] = sum_gain[i];
  dbias[mine + i] = sum_bias[i];
}
