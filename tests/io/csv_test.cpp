// SPDX-License-Identifier: MIT

#include "support/bits.hpp"
#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <rhei/core/random.hpp>
#include <rhei/io/csv.hpp>
#include <string>
#include <utility>
#include <vector>

using namespace rhei;
using namespace rhei::testing;

namespace {

using Names = std::vector<std::string>;

std::string csv_refusal(std::string_view text) {
  return error_text<std::runtime_error>([&] { parse_csv(text); });
}

Matrix<double> matrix(std::initializer_list<std::initializer_list<double>> rows) { return Matrix<double>(rows); }

}  // namespace

TEST_CASE("CSV in its many dresses", "[io][csv]") {
  const Matrix<double> expected = matrix({{1, -2.5}, {3e2, 0.25}});
  for (const char* text : {
           "1,-2.5\n3e2,.25\n",
           "1,-2.5\n3e2,.25",
           "1,-2.5\r\n3e2,.25\r\n\r\n",
           "1,-2.5\n3e2,.25\n\n  \n\r\n \n",
           "\xef\xbb\xbf"
           "1,-2.5\n3e2,.25\n",
           "1;-2.5\n3e2;.25\n",
           "1\t-2.5\n3e2\t.25\n",
           "1 -2.5\n3e2 .25\n",
           "  1   -2.5  \n 3e2\t .25\n",
           " 1 , -2.5 \n\t3e2 ,\t0.25\t\n",
           "\"1\",\"-2.5\"\n\"3e2\", \" 0.25\"\n",
           "\"1\" \"-2.5\"\n\"3e2\"  0.25\n",
           "+1,-2.5\n+3E+2,+2.5e-1\n",
           "1.,-2.50\n300.000,00.25\n",
       }) {
    CAPTURE(detail::in_quotes(text));
    if (contains(text, "\" 0.25\"")) {  // blanks inside quotes belong to the field
      CHECK(contains(csv_refusal(text), "line 2, column 2: found \" 0.25\""));
      continue;
    }
    const Table table = parse_csv(text);
    CHECK(table.values == expected);
    CHECK(table.names.empty());
  }
}

TEST_CASE("a first line that is not all numbers holds the names", "[io][csv]") {
  const auto check = [](const char* text, const Names& names, Index rows) {
    CAPTURE(text);
    const Table table = parse_csv(text);
    CHECK(table.names == names);
    CHECK(table.values.rows() == rows);
    CHECK(table.values.cols() == static_cast<Index>(names.size()));
    if (rows > 0) CHECK(table.values(rows - 1, 0) == 1);
  };
  check("x,y\n1,2\n", {"x", "y"}, 1);
  check("x;y z, w\n1;2\n", {"x", "y z, w"}, 1);
  check("id,2019,2020\n1,2,3\n1,5,6\n", {"id", "2019", "2020"}, 2);
  check(",a\n1,2\n", {"", "a"}, 1);
  check("\"a, b\",\"say \"\"hi\"\"\"\r\n1,2\r\n", {"a, b", "say \"hi\""}, 1);
  check("\"two\nlines\",b\n1,2\n", {"two\nlines", "b"}, 1);
  check("a b\n1 2\n", {"a", "b"}, 1);
  check("\"a b\"\n1\n", {"a b"}, 1);
  check("x\ty, z\n1\t2\n", {"x", "y, z"}, 1);
  check("x,y,z\n", {"x", "y", "z"}, 0);
  check("x", {"x"}, 0);
  check("x\n1\n2\n1\n", {"x"}, 3);
}

TEST_CASE("the words for what is not finite are numbers", "[io][csv]") {
  const auto table = parse_csv("inf,-inf,nan,Infinity,NAN\n+INF,-infinity,-nan,1,2\n");
  REQUIRE(table.names.empty());
  CHECK(table.values(0, 0) == HUGE_VAL);
  CHECK(table.values(0, 1) == -HUGE_VAL);
  CHECK(std::isnan(table.values(0, 2)));
  CHECK(table.values(0, 3) == HUGE_VAL);
  CHECK(std::isnan(table.values(0, 4)));
  CHECK(table.values(1, 0) == HUGE_VAL);
  CHECK(table.values(1, 1) == -HUGE_VAL);
  CHECK(std::isnan(table.values(1, 2)));
}

TEST_CASE("what is not a table of numbers is refused with line and column", "[io][csv]") {
  const std::pair<const char*, const char*> cases[] = {
      {"", "is empty"},
      {"\n\n", "is empty"},
      {"\xef\xbb\xbf", "is empty"},
      {"x,y\n1,2\n3,abc\n", "line 3, column 2 (\"y\"): found \"abc\", expected a number"},
      {"1,2\n3,abc\n", "line 2, column 2: found \"abc\", expected a number"},
      {"x,y\n1,\n", "line 2, column 2 (\"y\"): found an empty field"},
      {"1,2\n,3\n", "line 2, column 1: found an empty field"},
      {"1,,2\n", "line 1, column 2: found an empty field"},
      {"1,2\n\"\",3\n", "line 2, column 1: found an empty field"},
      {"1\t2\n\t\t\n", "line 2, column 1: found an empty field"},
      {"1,2\n3\n", "line 2 has 1 fields, expected 2 as in line 1"},
      {"1,2\n3,4,5\n", "line 2 has 3 fields, expected 2 as in line 1"},
      {"1,2\n3,4,\n", "line 2 has 3 fields, expected 2"},
      {"1 2\n3 4 5 6\n", "line 2 has 4 fields, expected 2"},
      {"x y\n3\n", "line 2 has 1 fields, expected 2"},
      {"1,2\n\n3,4\n", "line 2 is blank"},
      {"1\n\n2\n", "line 2 is blank"},
      {"\n1,2\n", "line 1 is blank"},
      {"x\n1\n  \n2", "line 3 is blank"},
      {"1,2\n3;4\n", "line 2, column 1: found \"3;4\""},
      {"1,5;2,5\n1,5;2,5\n", "line 2, column 1 (\"1,5\"): found \"1,5\""},
      {"1,2\n0x10,4\n", "line 2, column 1: found \"0x10\""},
      {"1,2\n3e,4\n", "found \"3e\""},
      {"1,2\n+-3,4\n", "found \"+-3\""},
      {"1,2\n++3,4\n", "found \"++3\""},
      {"1,2\n3 4,5\n", "line 2, column 1: found \"3 4\""},
      {"1 2\n3x 4\n", "line 2, column 1: found \"3x\""},
      {"1,2\n1e999,4\n", "line 2, column 1: found \"1e999\", expected a number in the range of double"},
      {"1,2\n3,-1e-999\n", "line 2, column 2: found \"-1e-999\", expected a number in the range of double"},
      {"1,2\n\"3,4\n", "line 2, column 1: found \"\"3,4\""},
      {"1,2\n\"3\"4,5\n", "line 2, column 1: found \"\"3\"4\""},
      {"\"x,y\n1,2\n", "line 1: a field in quotes is not closed"},
      {"\"x\"y,z\n1,2\n", "line 1, column 1: found \"\"x\"y\", expected quotes around a whole field"},
      {"\"two\nlines\",b\n1,2\n1,x\n", "line 4, column 2 (\"b\"): found \"x\""},
      {"a\n1\r2\n", "line 2, column 1 (\"a\"): found \"1\\x0d2\""},
      {"# a b\n1 2\n", "line 2 has 2 fields, expected 3"},
  };
  for (const auto& [text, part] : cases) {
    CAPTURE(text, part, csv_refusal(text));
    CHECK(contains(csv_refusal(text), part));
  }
  CHECK(contains(csv_refusal(std::string_view("1,2\n3\0,4\n", 9)), "found \"3\\x00\""));
  const std::string essay(1000, 'z');
  CHECK(csv_refusal("1\n" + essay) ==
        "CSV text: line 2, column 1: found \"" + std::string(40, 'z') + "...\", expected a number");
  CHECK(contains(error_text<std::runtime_error>([] { parse_csv("1,2\n3", "moons.csv"); }), "moons.csv: line 2"));
}

TEST_CASE("a first line that promises many columns reserves little", "[io][csv]") {
  std::string text = "1";
  for (int i = 1; i < 200'000; ++i) text += ",1";
  for (int i = 0; i < 200'000; ++i) text += "\n1";  // 320 GB if it were believed
  CHECK(contains(csv_refusal(text), "line 2 has 1 fields, expected 200000"));
}

TEST_CASE("CSV comes back bit for bit", "[io][csv]") {
  Rng rng(5);
  Table table{Matrix<double>(3000, 3), {"x", "a \"quoted\", name", ""}};
  for (Index i = 0; i < table.values.size(); ++i) {
    double value = 0;
    do value = std::bit_cast<double>(rng());
    while (std::isnan(value));  // text has no room for what else a NaN holds
    table.values(i) = value;
  }
  table.values.row(0) << -0.0, 5e-324, std::numeric_limits<double>::max();
  table.values.row(1) << HUGE_VAL, -HUGE_VAL, 2.2250738585072009e-308;

  testing::TemporaryFolder folder;
  const std::string path = folder / "table.csv";
  write_csv(path, table);
  const Table back = read_csv(path);
  CHECK(back.names == table.names);
  REQUIRE(back.values.rows() == 3000);
  REQUIRE(back.values.cols() == 3);
  bool same = true;
  for (Index i = 0; i < table.values.size(); ++i) same = same && same_bits(back.values(i), table.values(i));
  CHECK(same);

  table.values(7, 1) = std::nan("");
  CHECK(std::isnan(parse_csv(format_csv(table)).values(7, 1)));

  write_atomically(path, "x,y\n1,2\n3,four\n");
  CHECK(error_text<std::runtime_error>([&] { read_csv(path); }) ==
        path + ": line 3, column 2 (\"y\"): found \"four\", expected a number");
}

TEST_CASE("names come back whatever they hold", "[io][csv]") {
  for (const Names& names : {Names{"a b", "c"}, Names{" a ", "\t"}, Names{"a;b", "c\td"}, Names{"\n", "\r\n"},
                             Names{"\"", "\"\""}, Names{"1", "x"}, Names{"", "x"}, Names{"\xef\xbb\xbf", "x"}}) {
    const Table table{matrix({{1, 2}}), names};
    CAPTURE(format_csv(table));
    CHECK(parse_csv(format_csv(table)).names == names);
    CHECK(parse_csv(format_csv({Matrix<double>(0, 2), names})).names == names);
    CHECK(parse_csv(format_csv({Matrix<double>(0, 2), names})).values.rows() == 0);
  }
  CHECK(parse_csv(format_csv({matrix({{1}, {2}}), {"two words"}})).names == Names{"two words"});
}

TEST_CASE("a table that would not come back is not written", "[io][csv]") {
  const auto text = [](const Table& table) { return error_text<std::invalid_argument>([&] { format_csv(table); }); };
  CHECK(contains(text({matrix({{1, 2}}), {"a"}}), "names are 1, expected one for each of the 2 columns"));
  CHECK(contains(text({matrix({{1, 2}}), {"1", "2"}}), "names begin with \"1\" and are all numbers"));
  CHECK(contains(text({matrix({{1, 2}}), {"nan", ""}}), "would be read as a row"));
  CHECK(contains(text({matrix({{1, 2}}), {"1e999", "2"}}), "would be read as a row"));
  CHECK(contains(text({Matrix<double>(0, 3), {}}), "table is 0 x 3 with 0 names"));
  CHECK(contains(text({Matrix<double>(3, 0), {}}), "table is 3 x 0"));
}

TEST_CASE("mutated CSV is read or refused", "[io][csv]") {
  for (const std::string valid : {"x,\"y, z\",w\r\n1.5,-2e3,nan\r\n\"4\", 5 ,+6\r\n7,8,9\r\n", "1 2 3\n4  5 6\n 7 8 9",
                                  "\xef\xbb\xbf"
                                  "a;b\n1;2\n3;4\n"}) {
    const int taken = testing::survivors(valid, 5'000, [](const std::string& text) {
      const Table table = parse_csv(text);
      if (table.values.cols() < 1) FAIL("no columns from " << text);
    });
    CAPTURE(taken);
    CHECK(taken > 300);
    CHECK(taken < 4'700);
  }
}
