// SPDX-License-Identifier: MIT

#include <rhei/core/options.hpp>
#include <string>

#include "support/catch.hpp"
#include "support/errors.hpp"

using namespace rhei;
using namespace rhei::testing;

TEST_CASE("options hold each kind of value", "[options]") {
  const Options options = Options("layer")
                              .set("flag", true)
                              .set("count", 3)
                              .set("rate", 0.5)
                              .set("name", "text")
                              .set("hidden", Options::Integers{64, 32})
                              .set("inner", Options("net"))
                              .set("parts", Options::List{Options("a"), Options("b")});
  CHECK(options.type() == "layer");
  CHECK(options.get<bool>("flag"));
  CHECK(options.get<std::int64_t>("count") == 3);
  CHECK(options.get<double>("rate") == 0.5);
  CHECK(options.get<std::string>("name") == "text");
  CHECK(options.get<Options::Integers>("hidden") == Options::Integers{64, 32});
  CHECK(options.get<Options>("inner").type() == "net");
  CHECK(options.get<Options::List>("parts")[1].type() == "b");
  CHECK(options.has("flag"));
  CHECK_FALSE(options.has("other"));
  CHECK(options.entries().front().first == "type");  // in the order in which they were set
  CHECK(options.entries().back().first == "parts");
}

TEST_CASE("missing entries and other kinds are named", "[options]") {
  const Options options = Options("coupling").set("count", 3);
  const std::string missing = error_text<std::runtime_error>([&] { (void)options.get<bool>("flag"); });
  CHECK(contains(missing, "'coupling'"));
  CHECK(contains(missing, "'flag' is missing"));
  const std::string kind = error_text<std::runtime_error>([&] { (void)options.get<double>("count"); });
  CHECK(contains(kind, "'count' is an integer, expected a number"));
  CHECK(contains(error_text<std::runtime_error>([] { (void)Options().type(); }), "'type' is missing"));
  CHECK(contains(error_text<std::runtime_error>([] { (void)Options().set("type", 3).type(); }), "'type'"));
}

TEST_CASE("sizes are checked", "[options]") {
  const Options options = Options("layer").set("dim", 2).set("negative", -1).set("hidden", Options::Integers{8, 0});
  CHECK(options.get_size("dim") == 2);
  CHECK(options.get_size("dim", 2) == 2);
  CHECK(contains(error_text<std::runtime_error>([&] { (void)options.get_size("dim", 3); }),
                 "'dim' is 2, expected 3 to "));
  CHECK(contains(error_text<std::runtime_error>([&] { (void)options.get_size("negative"); }), "'negative' is -1"));
  CHECK(options.get_sizes("hidden") == std::vector<Index>{8, 0});
  CHECK(contains(error_text<std::runtime_error>([&] { (void)options.get_sizes("hidden", 1); }), "'hidden' is 0"));
}

TEST_CASE("a limit holds for the whole tree", "[options]") {
  Options options = Options("chain").set("dim", 100).set("inner", Options("net").set("width", 100));
  options.set("parts", Options::List{Options("a").set("width", 100)});
  const auto inner = [&] { (void)options.get<Options>("inner").get_size("width"); };
  const auto part = [&] { (void)options.get<Options::List>("parts")[0].get_size("width"); };
  CHECK(error_text<std::runtime_error>(inner).empty());
  CHECK(error_text<std::runtime_error>(part).empty());
  options.limit_sizes(99);
  CHECK(contains(error_text<std::runtime_error>([&] { (void)options.get_size("dim"); }), "expected 0 to 99"));
  CHECK(contains(error_text<std::runtime_error>(inner), "'net'"));
  CHECK(contains(error_text<std::runtime_error>(part), "'a'"));
}

TEST_CASE("no tensor is larger than its file", "[options]") {
  Options options("net");
  options.limit_sizes(100);
  CHECK(error_text<std::runtime_error>([&] { options.check_tensor(10, 10); }).empty());
  CHECK(error_text<std::runtime_error>([&] { options.check_tensor(1000, 0); }).empty());
  CHECK(contains(error_text<std::runtime_error>([&] { options.check_tensor(10, 11); }), "10 x 11"));
  const Index huge = Index(1) << 40;  // whose square overflows
  CHECK(contains(error_text<std::runtime_error>([&] { options.check_tensor(huge, huge); }), "larger than the file"));
  CHECK(error_text<std::runtime_error>([&] { options.check_tensors({{5, 10}, {0, 1000}, {50, 1}}); }).empty());
  CHECK(contains(error_text<std::runtime_error>([&] {
                   options.check_tensors({{5, 10}, {51, 1}});
                 }),
                 "51 x 1"));  // together
}

TEST_CASE("equal options have equal entries", "[options]") {
  Options a = Options("net").set("width", 3), b = Options("net").set("width", 3);
  CHECK(a == b);
  b.limit_sizes(5);  // not part of what is described
  CHECK(a == b);
  CHECK_FALSE(a == Options("net").set("width", 4));
  CHECK_FALSE(a == Options("net").set("depth", 3));
}
