// SPDX-License-Identifier: MIT

#include "support/allocation_counter.hpp"
#include "support/bits.hpp"
#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <rhei/core/random.hpp>
#include <rhei/io/npy.hpp>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

using namespace rhei;
using namespace rhei::testing;

namespace {

/// A file as NumPy writes it, but for the alignment.
std::string npy(const std::string& header, const std::string& values, int version = 1) {
  std::string file = "\x93NUMPY";
  file += static_cast<char>(version);
  file += '\0';
  const auto length = static_cast<std::uint32_t>(header.size());
  file.append(reinterpret_cast<const char*>(&length), version == 1 ? 2 : 4);
  return file + header + values;
}

std::string header(const std::string& type, const std::string& shape, bool column_major = false) {
  return "{'descr': '" + type + "', 'fortran_order': " + (column_major ? "True" : "False") + ", 'shape': " + shape +
         ", }   \n";
}

std::string npy_refusal(const std::string& file) {
  return error_text<std::runtime_error>([&] { parse_npy(file); });
}

}  // namespace

TEMPLATE_TEST_CASE("NPY comes back bit for bit", "[io][npy]", RHEI_TEST_SCALARS) {
  using S = TestType;
  testing::TemporaryFolder folder;
  const std::string path = folder / "m.npy";
  for (const auto& [rows, cols] : {std::pair<Index, Index>{100, 7}, {1, 1}, {0, 3}, {3, 0}, {0, 0}, {1, 5}, {5, 1}}) {
    CAPTURE(rows, cols);
    const Matrix<S> m = any_bits<S>(rows, cols);
    write_npy(path, m);
    CHECK(same_bits(read_npy_exactly<S>(path), m));
    const Matrix<double> wide = read_npy(path);
    CHECK((wide.rows() == rows && wide.cols() == cols));
    for (Index i = 0; i < m.size(); ++i)
      CHECK((std::isnan(m(i)) ? std::isnan(wide(i)) : wide(i) == static_cast<double>(m(i))));
  }
}

TEST_CASE("NPY is written from any dense expression", "[io][npy]") {
  const Matrix<double> m = any_bits<double>(6, 4);
  CHECK(same_bits(parse_npy_exactly<double>(format_npy(m.middleRows(1, 3))), Matrix<double>(m.middleRows(1, 3))));
  CHECK(same_bits(parse_npy_exactly<double>(format_npy(m.transpose())), Matrix<double>(m.transpose())));
  CHECK(same_bits(parse_npy_exactly<double>(format_npy(m.row(2))), Matrix<double>(m.row(2))));
  const Vector<float> v = any_bits<float>(5, 1);
  CHECK(same_bits(parse_npy_exactly<float>(format_npy(v)), Matrix<float>(v)));
  const Eigen::Matrix<double, 2, 3, Eigen::RowMajor> fixed = m.topLeftCorner(2, 3);
  CHECK(same_bits(parse_npy_exactly<double>(format_npy(fixed)), Matrix<double>(fixed)));
  CHECK(format_npy(m).size() == 128 + 6 * 4 * 8);  // the values are aligned to 64 bytes
}

TEST_CASE("NPY of every type, order, version and rank", "[io][npy]") {
  Matrix<double> expected(2, 3);
  expected << 1, 2, 3, 4, 5, 6;
  const auto check = [&]<class T>(const std::string& type, T) {
    CAPTURE(type);
    const std::string by_rows = bytes_of<T>({1, 2, 3, 4, 5, 6}), by_columns = bytes_of<T>({1, 4, 2, 5, 3, 6});
    CHECK(parse_npy(npy(header(type, "(2, 3)"), by_rows)) == expected);
    CHECK(parse_npy(npy(header(type, "(2, 3)", true), by_columns)) == expected);
    CHECK(parse_npy(npy(header(type, "(2, 3)"), by_rows, 2)) == expected);
    CHECK(parse_npy(npy(header(type, "(2, 3)"), by_rows, 3)) == expected);
    const Matrix<double> vector = parse_npy(npy(header(type, "(6,)"), by_rows));
    CHECK((vector.rows() == 6 && vector.cols() == 1 && vector(5, 0) == 6));
    CHECK(parse_npy(npy(header(type, "(0, 3)"), "")).cols() == 3);
    const T low = std::numeric_limits<T>::lowest(), high = std::numeric_limits<T>::max();
    if constexpr (!(std::is_integral_v<T> && sizeof(T) == 8))
      CHECK(parse_npy(npy(header(type, "(1, 2)"), bytes_of<T>({low, high}))) ==
            (Matrix<double>(1, 2) << static_cast<double>(low), static_cast<double>(high)).finished());
  };
  check("<f4", float{});
  check("<f8", double{});
  check("|i1", std::int8_t{});
  check("|u1", std::uint8_t{});
  check("<i2", std::int16_t{});
  check("<u2", std::uint16_t{});
  check("<i4", std::int32_t{});
  check("<u4", std::uint32_t{});
  check("<i8", std::int64_t{});
  check("<u8", std::uint64_t{});
}

TEST_CASE("NPY integers are exact or refused", "[io][npy]") {
  constexpr std::int64_t limit = std::int64_t{1} << 53;
  const Matrix<double> edge = parse_npy(npy(header("<i8", "(2,)"), bytes_of<std::int64_t>({limit, -limit})));
  CHECK((edge(0) == 0x1p53 && edge(1) == -0x1p53));
  CHECK(contains(npy_refusal(npy(header("<i8", "(2, 2)"), bytes_of<std::int64_t>({1, 2, limit + 1, 3}))),
                 "row 1, column 0 (from 0): found 9007199254740993, which a double does not hold exactly"));
  CHECK(contains(npy_refusal(npy(header("<i8", "(1,)"), bytes_of<std::int64_t>({-limit - 1}))), "-9007199254740993"));
  CHECK(contains(npy_refusal(npy(header("<i8", "(1,)"), bytes_of<std::int64_t>({INT64_MIN}))), "-9223372036854775808"));
  CHECK(
      contains(npy_refusal(npy(header("<u8", "(1,)"), bytes_of<std::uint64_t>({UINT64_MAX}))), "18446744073709551615"));
}

TEST_CASE("NPY of another type than asked for is not converted", "[io][npy]") {
  const std::string file = format_npy(Matrix<float>(Matrix<float>::Ones(2, 2)));
  CHECK(contains(error_text<std::runtime_error>([&] { parse_npy_exactly<double>(file); }),
                 "has values of type \"<f4\", expected \"<f8\""));
  CHECK(parse_npy_exactly<float>(file) == Matrix<float>::Ones(2, 2));
}

TEST_CASE("what is not a readable NPY file is refused with what is wrong", "[io][npy]") {
  const std::string six = bytes_of<double>({1, 2, 3, 4, 5, 6});
  const auto with = [&](const std::string& text) { return npy(text, six); };
  const auto refused = [](const std::string& file, const char* part) {
    CAPTURE(part, npy_refusal(file));
    CHECK(contains(npy_refusal(file), part));
  };
  refused("", "magic word");
  refused("\x93NUMPX", "magic word");
  refused("\x93NUMPY\x01", "has 7 bytes, expected at least 12: the file is truncated");
  refused(npy(header("<f8", "(2, 3)"), six, 4), "NPY version 4.0, expected 1.0, 2.0 or 3.0");
  refused(npy(header("<f8", "(2, 3)"), six, 0), "NPY version 0.0");
  refused(npy(header("<f8", "(2, 3)"), "").substr(0, 40), "the file is truncated");
  refused(with(header(">f8", "(2, 3)")), "values of type \">f8\", expected little-endian");
  refused(with(header("<c16", "(3,)")), "values of type \"<c16\"");
  refused(with(header("|b1", "(2, 3)")), "values of type \"|b1\"");
  refused(with(header("|O", "(2, 3)")), "values of type \"|O\"");
  refused(with(header("<f2", "(2, 3)")), "values of type \"<f2\"");
  refused(with(header("", "(2, 3)")), "values of type \"\"");
  refused(with("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (6,)}"), "structured types are not read");
  refused(with(header("<f8", "()")), "shape (), expected one or two");
  refused(with(header("<f8", "(1, 2, 3)")), "shape (1, 2, 3, ), expected one or two");
  refused(with(header("<f8", "(2, 4)")), "48 bytes of values, expected 64");
  refused(with(header("<f8", "(2, 2)")),
          "48 bytes of values, expected 32 for the shape (2, 2, ) of type <f8: the file is "
          "too long");
  refused(with(header("<f8", "(0, 3)")), "expected 0");
  refused(with(header("<f8", "(4611686018427387904, 4)")), "which is too large");
  refused(with(header("<f8", "(2305843009213693952,)")), "which is too large");
  refused(with(header("<f8", "(536870912, 1)")), "expected 4294967296");
  refused(with(header("<f8", "(99999999999999999999, 1)")), "a size in shape is too large");
  refused(with(header("<f8", "(-2, 3)")), "found \"-2, 3), }");
  refused(with(header("<f8", "(6)")), "expected a tuple");
  refused(with(header("<f8", "(,)")), "expected a size");
  refused(with(header("<f8", "(2 3)")), "expected ',' or ')'");
  refused(with(header("<f8", "(2, 3L)")), "found \"L), }");
  refused(with(header("<f8", "(2., 3)")), "expected ',' or ')'");
  refused(with(header("<f8", "[2, 3]")), "expected '('");
  refused(with(header("<f8", "(2, 3")), "expected a size");
  refused(with("{'descr': '<f8', 'fortran_order': False}"), "NPY header: has no shape");
  refused(with("{'descr': '<f8', 'shape': (2, 3)}"), "has no fortran_order");
  refused(with("{'fortran_order': False, 'shape': (2, 3)}"), "has no descr");
  refused(with("{}"), "has no descr");
  refused(with("{'descr': '<f8', 'descr': '<f4', }"), "the key \"descr\" came before");
  refused(with("{'descr': '<f8', 'order': 'C', }"), "the key \"order\", expected descr");
  refused(with("{'descr': '<f8', 'fortran_order': 1, }"), "expected True or False");
  refused(with("{'descr': '<f8, 'fortran_order': False}"), "at byte 17 of the header, expected ','");
  refused(with("{'descr': '<f8"), "expected a type in quotes");
  refused(with("{'descr': '<f8'"), "found the end at byte 15 of the header, expected ','");
  refused(with("{'descr' '<f8'}"), "expected ':'");
  refused(with("{descr: '<f8'}"), "expected a key in quotes");
  refused(with("['descr']"), "expected '{'");
  refused(with(""), "expected '{'");
  refused(with(header("<f8", "(2, 3)") + "x"), "expected nothing but spaces after the dict");
  refused(with(header("<f8", "(2, 3)") + std::string(1, '\0')), "found \"\\x00\"");
  refused(with(header("<f8", "(2, 3)") + "{}"), "expected nothing but spaces");
  refused(npy("{'descr': '<f8'}", "", 1).substr(0, 11), "truncated");

  std::string lie = npy(header("<f8", "(2, 3)"), six, 2);
  lie.replace(8, 4, "\xff\xff\xff\xff");
  CHECK(contains(npy_refusal(lie), "expected at least 4294967307: the file is truncated"));

  if (testing::counts_allocations())  // 4 GiB that are not there
    for (const std::string& file : {lie, with(header("<f8", "(536870912, 1)")), with(header("<f8", "(1, 536870912)"))})
      CHECK(testing::bytes_in([&] { npy_refusal(file); }) < 16'384);

  testing::TemporaryFolder folder;
  const std::string path = folder / "short.npy";
  write_atomically(path, with(header("<f8", "(7,)")));
  CHECK(contains(error_text<std::runtime_error>([&] { read_npy(path); }),
                 path + ": has 48 bytes of values, expected 56"));
  CHECK(contains(error_text<std::runtime_error>([&] { read_npy_exactly<double>(path); }), "short.npy: has 48"));
}

TEST_CASE("the keys of an NPY header may come in any order and in either quotes", "[io][npy]") {
  const std::string file =
      npy("{\"shape\":(2,3,),'fortran_order':False,\"descr\":\"<f8\"}", bytes_of<double>({1, 2, 3, 4, 5, 6}));
  CHECK(parse_npy(file)(1, 0) == 4);
}

TEST_CASE("an empty NPY array may be as wide as it likes", "[io][npy]") {
  const Matrix<double> m = parse_npy(npy(header("<f8", "(0, 1152921504606846975)"), ""));
  CHECK((m.rows() == 0 && m.cols() == 1152921504606846975));
}

TEST_CASE("mutated NPY is read or refused", "[io][npy]") {
  const std::string valid = format_npy(any_bits<double>(2, 1)),
                    integers = npy(header("<i4", "(2, 2)"), bytes_of<int>({1, 2, 3, 4}));
  for (const std::string& file : {valid, integers}) {
    const int taken = testing::survivors(file, 5'000, [](const std::string& text) { parse_npy(text); });
    CAPTURE(taken);
    CHECK(taken > 100);
    CHECK(taken < 4'500);
  }
}
