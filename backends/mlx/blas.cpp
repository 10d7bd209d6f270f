// The products of matrices under the names that MLX calls on Linux, by functions of another library
// whose whole numbers have 64 bits.
#include <cstdint>

namespace {

template <class T>
using Product = void (*)(int order, int left, int right, int64_t m, int64_t n, int64_t k, T alpha,
                         const T *a, int64_t lda, const T *b, int64_t ldb, T beta, T *c,
                         int64_t ldc);

Product<float> singles;
Product<double> doubles;

}  // namespace

extern "C" {

// To be called before MLX can find the names below.
void fwt_use(Product<float> sgemm, Product<double> dgemm) {
    singles = sgemm;
    doubles = dgemm;
}

void cblas_sgemm(int order, int left, int right, int m, int n, int k, float alpha, const float *a,
                 int lda, const float *b, int ldb, float beta, float *c, int ldc) {
    singles(order, left, right, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

void cblas_dgemm(int order, int left, int right, int m, int n, int k, double alpha,
                 const double *a, int lda, const double *b, int ldb, double beta, double *c,
                 int ldc) {
    doubles(order, left, right, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
}
