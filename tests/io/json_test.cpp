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
#include <rhei/io/json.hpp>
#include <string>
#include <utility>
#include <vector>

using namespace rhei;
using namespace rhei::testing;

namespace {

std::string json_refusal(std::string_view text) {
  return error_text<std::runtime_error>([&] { parse_json(text); });
}

}  // namespace

TEST_CASE("JSON values are read", "[io][json]") {
  const Json json = parse_json(R"( {"b": [1, -2.5e-1, true, false, null, {}], "a": {"x": "y"}, "": []} )");
  REQUIRE(json.members().size() == 3);
  CHECK(json.members()[0].first == "b");  // in the order of the text
  CHECK(json.members()[1].first == "a");
  CHECK(json.at("a").get<std::string>("x") == "y");
  const auto& b = json.at("b").elements();
  CHECK(b[0].as<int>() == 1);
  CHECK(b[1].as<double>() == -0.25);
  CHECK(b[2].as<bool>());
  CHECK_FALSE(b[3].as<bool>());
  CHECK(b[4].is_null());
  CHECK((b[0].is<std::int64_t>() && !b[0].is<double>() && b[1].is<double>() && b[2].is<bool>()));
  CHECK((json.is<Json::Object>() && json.at("b").is<Json::Array>() && !json.is<std::string>()));
  CHECK(b[5].members().empty());
  CHECK(json.at("").elements().empty());
  CHECK(json.contains("a"));
  CHECK_FALSE(json.contains("c"));
}

TEST_CASE("JSON integers are exact", "[io][json]") {
  const Json json = parse_json("[9223372036854775807, -9223372036854775808, 9223372036854775808, 0, 9007199254740993]");
  const auto& v = json.elements();
  CHECK(v[0].as<std::int64_t>() == std::numeric_limits<std::int64_t>::max());
  CHECK(v[1].as<std::int64_t>() == std::numeric_limits<std::int64_t>::min());
  CHECK(v[2].as<double>() == 0x1p63);  // one too many for an integer
  CHECK(v[3].as<std::uint8_t>() == 0);
  CHECK(v[4].as<std::int64_t>() == 9007199254740993);
  CHECK(json.text() == "[9223372036854775807,-9223372036854775808,9223372036854775808.0,0,9007199254740993]");
  const std::uint64_t too_large = std::uint64_t{1} << 63;
  CHECK(contains(error_text<std::invalid_argument>([&] { Json{too_large}; }), "9223372036854775808"));
}

TEST_CASE("JSON doubles come back bit for bit, as doubles", "[io][json]") {
  const double special[] = {
      0.0, -0.0, 1.0, -1.0, 0.1, 1e22, 1e300, 5e-324, 2.2250738585072011e-308, 1.7976931348623157e308};
  for (const double value : special) {
    const Json back = parse_json(Json(value).text());
    CHECK(back == Json(value));
    CHECK(same_bits(back.as<double>(), value));
  }
  CHECK(Json(1.0).text() == "1.0");
  CHECK(same_bits(parse_json("-0").as<double>(), -0.0));
  Rng rng(3);
  for (int i = 0; i < 20'000; ++i) {
    const auto value = std::bit_cast<double>(rng());
    if (!std::isfinite(value)) continue;
    if (!same_bits(parse_json(Json(value).text()).as<double>(), value)) FAIL("lost bits of " << Json(value).text());
    const auto single = std::bit_cast<float>(static_cast<std::uint32_t>(rng()));
    if (std::isfinite(single) && parse_json(Json(single).text()).as<float>() != single) FAIL("lost bits of a float");
  }
  CHECK(contains(error_text<std::invalid_argument>([] { static_cast<void>(Json(std::nan("")).text()); }), "nan"));
  CHECK(contains(error_text<std::invalid_argument>([] { static_cast<void>(Json(HUGE_VAL).text()); }), "inf"));
}

TEST_CASE("JSON strings, escapes and UTF-8", "[io][json]") {
  CHECK(parse_json(R"("\"\\\/\b\f\n\r\t")").as<std::string>() == "\"\\/\b\f\n\r\t");
  CHECK(parse_json(R"("\u0041\u00e4\u20AC\ud83d\ude00")").as<std::string>() == "A\u00e4\u20ac\U0001f600");
  CHECK(parse_json(R"("a\u0000b")").as<std::string>() == std::string("a\0b", 3));
  std::string all;
  for (int c = 0; c < 128; ++c) all += static_cast<char>(c);
  all += "\u00e4\u20ac\U0001f600\U0010ffff";
  const std::string text = Json(all).text();
  CHECK(parse_json(text).as<std::string>() == all);
  CHECK(contains(text, R"(\u0000\u0001)"));
  CHECK(contains(text, R"(\b\t\n\u000b\f\r)"));
  CHECK(contains(text, R"(\u001f !\"#)"));
  CHECK(contains(text, "./0"));  // a slash needs no escape

  for (const char* bad : {"\x80", "\xc0\x80", "\xc1\xbf", "\xc3", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
                          "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xe2\x82", "\xff", "\xc3\xc3\xa4"}) {
    CAPTURE(detail::in_quotes(bad));
    CHECK(json_refusal("\"ab" + std::string(bad) + "\"") == "JSON text: byte 3: not valid UTF-8");
    CHECK(contains(error_text<std::invalid_argument>([&] { static_cast<void>(Json(bad).text()); }), "expected UTF-8"));
  }
}

TEST_CASE("what is not JSON is refused with its place", "[io][json]") {
  const std::pair<const char*, const char*> cases[] = {
      {"", "byte 0: found the end of the text, expected a JSON value"},
      {" ", "byte 1: found the end of the text"},
      {"\xef\xbb\xbf{}", "byte 0: found"},
      {"{} x", "byte 3: found \"x\" after the JSON value"},
      {"{}{}", "byte 2: found \"{}\" after"},
      {"[1,]", "byte 3: found \"]\", expected a JSON value"},
      {"[1 2]", "byte 3: found \"2]\", expected ',' or ']'"},
      {"[1", "byte 2: found the end of the text, expected ',' or ']'"},
      {"{\"a\"}", "byte 4: found \"}\", expected ':' after a key"},
      {"{a: 1}", "byte 1: found \"a: 1}\", expected a key in double quotes"},
      {"{'a': 1}", "expected a key in double quotes"},
      {"{\"a\":1,}", "byte 7: found \"}\", expected a key"},
      {"{\"a\":1", "expected ',' or '}'"},
      {"{\"a\":1, \"b\":2, \"a\":3}", "byte 15: the key \"a\" came before"},
      {"{\"a\":1, \"\\u0061\":3}", "byte 8: the key \"a\" came before"},
      {"01", "byte 0: a number begins with a needless 0"},
      {"-01", "byte 0: a number begins with a needless 0"},
      {"+1", "byte 0: found \"+1\""},
      {".5", "byte 0: found \".5\""},
      {"1.", "byte 2: found the end of the text, expected a digit"},
      {"1.e3", "byte 2: found \"e3\", expected a digit"},
      {"1e", "byte 2: found the end of the text, expected a digit"},
      {"1e+", "expected a digit"},
      {"-", "byte 1: found the end of the text, expected a digit"},
      {"0x10", "byte 1: found \"x10\" after"},
      {"[1, 1e999]", "byte 4: the number \"1e999\" is beyond the range of double"},
      {"NaN", "byte 0: found \"NaN\""},
      {"-Infinity", "byte 1: found \"Infinity\", expected a digit"},
      {"tru", "byte 0: found \"tru\""},
      {"nulll", "byte 4: found \"l\" after"},
      {"\"abc", "byte 4: found the end of the text, expected a character of a string or its closing quote"},
      {"\"a\nb\"", "byte 2: found \"\\x0ab\""},
      {"\"\\x\"", "byte 2: found \"x\"\", expected one of"},
      {"\"\\u12g4\"", "byte 3: found \"12g4\"\", expected four hexadecimal digits"},
      {"\"\\u-123\"", "expected four hexadecimal digits"},
      {"\"\\u12\"", "expected four hexadecimal digits"},
      {"\"\\ud800\"", "byte 1: half of a surrogate pair"},
      {"\"\\ud800\\u0041\"", "byte 1: half of a surrogate pair"},
      {"\"\\udc00\\ud800\"", "byte 1: half of a surrogate pair"},
      {"// a comment\n1", "byte 0: found"},
  };
  for (const auto& [text, part] : cases) {
    CAPTURE(text, part, json_refusal(text));
    CHECK(contains(json_refusal(text), part));
  }
  CHECK(contains(error_text<std::runtime_error>([] { parse_json("?", "arch.json"); }), "arch.json: byte 0"));
}

TEST_CASE("JSON nests to 100 and no deeper", "[io][json]") {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + "1" + std::string(depth, ']'); };
  CHECK(parse_json(nested(100)).text() == nested(100));
  CHECK(contains(json_refusal(nested(101)), "byte 101: nested deeper than 100"));
  CHECK(contains(json_refusal(std::string(1'000'000, '[')), "nested deeper"));
  std::string objects;
  for (int i = 0; i < 1000; ++i) objects += "{\"a\":";
  CHECK(contains(json_refusal(objects), "nested deeper"));
}

TEST_CASE("JSON accessors name the key, what was found and what was expected", "[io][json]") {
  const Json json = Json::Object{{"layers", "four"},
                                 {"hidden", std::vector{64, 64}},
                                 {"rate", 0.5},
                                 {"big", 1e300},
                                 {"bytes", 300},
                                 {"flag", true},
                                 {"none", {}},
                                 {"low", -1},
                                 {"mixed", Json::Array{1, "x"}}};
  const auto text = [&](auto&& f) { return error_text<std::runtime_error>([&] { static_cast<void>(f()); }); };
  CHECK(text([&] { return json.get<int>("layers"); }) ==
        "JSON key \"layers\" is the string \"four\", expected an integer");
  CHECK(text([&] { return json.get<int>("rate"); }) == "JSON key \"rate\" is 0.5, expected an integer");
  CHECK(text([&] { return json.get<std::string>("hidden"); }) ==
        "JSON key \"hidden\" is an array of 2, expected a string");
  CHECK(text([&] { return json.get<bool>("bytes"); }) == "JSON key \"bytes\" is 300, expected true or false");
  CHECK(text([&] { return json.get<double>("flag"); }) == "JSON key \"flag\" is true, expected a number");
  CHECK(text([&] { return json.get<double>("none"); }) == "JSON key \"none\" is null, expected a number");
  CHECK(text([&] { return json.get<float>("big"); }) == "JSON key \"big\" is 1e+300, expected a number float holds");
  CHECK(text([&] { return json.get<std::uint8_t>("bytes"); }) ==
        "JSON key \"bytes\" is 300, expected an integer from 0 to 255");
  CHECK(contains(text([&] { return json.get<std::uint64_t>("low"); }),
                 "JSON key \"low\" is -1, expected an integer from 0"));
  CHECK(text([&] { return json.get<std::vector<int>>("mixed"); }) ==
        "JSON key \"mixed\"[1] is the string \"x\", expected an integer");
  CHECK(text([&] { return json.get<int>("depth", 3) + json.get<int>("layers", 3); }) ==
        "JSON key \"layers\" is the string \"four\", expected an integer");
  CHECK(contains(text([&] { return json.at("depth"); }),
                 "JSON object has no key \"depth\", found \"layers\", \"hidden\""));
  CHECK(text([] { return Json(Json::Object{}).at("a"); }) == "JSON object has no key \"a\", found no key at all");
  CHECK(text([] { return Json(3).at("a"); }) == "JSON value is 3, expected an object with the key \"a\"");
  CHECK(text([&] { return json.elements("the list"); }) == "the list is an object, expected an array");
  CHECK(text([&] { return json.at("hidden").members(); }) == "JSON value is an array of 2, expected an object");
  CHECK(json.get<std::vector<int>>("hidden") == std::vector{64, 64});
  CHECK(json.get<double>("bytes") == 300);
  CHECK(json.get<int>("absent", 5) == 5);
}

TEST_CASE("JSON is built and written", "[io][json]") {
  Json json;
  json["name"] = "nsf";
  json["hidden"] = std::vector<Index>{64, 32};
  json["name"] = "maf";
  json["runs"].push_back(Json::Object{{"nll", 1.5}});
  json["runs"].push_back(true);
  json["flags"] = std::vector<bool>{true, false};
  CHECK(json.text() == R"({"name":"maf","hidden":[64,32],"runs":[{"nll":1.5},true],"flags":[true,false]})");
  CHECK(
      json.text(2) ==
      "{\n  \"name\": \"maf\",\n  \"hidden\": [64, 32],\n  \"runs\": [\n    {\n      \"nll\": 1.5\n    },\n    true\n  "
      "],\n  \"flags\": [true, false]\n}");
  CHECK(parse_json(json.text(2)) == json);
  CHECK(Json(Json::Array{}).text(2) == "[]");
  CHECK(Json(Json::Object{}).text(2) == "{}");
  Json number = 3;
  CHECK(contains(error_text<std::runtime_error>([&] { number["a"] = 1; }),
                 "JSON value is 3, expected an object with the key \"a\""));
  CHECK(contains(error_text<std::runtime_error>([&] { number.push_back(1); }), "is 3, expected an array"));

  testing::TemporaryFolder folder;
  const std::string path = folder / "results.json";
  write_json(path, json);
  CHECK(read_json(path) == json);
  write_atomically(path, "{\"a\": 1");
  CHECK(
      contains(error_text<std::runtime_error>([&] { read_json(path); }), path + ": byte 7: found the end of the text"));
}

TEST_CASE("mutated JSON is read or refused", "[io][json]") {
  const std::string valid =
      R"({"kind":"nsf","layers":[{"dim":3,"eps":1.25e-7,"ok":true},{"dim":-4,"n":null}],"text":"\u00e4\ud83d\ude00ä€\n"})";
  const int taken = testing::survivors(valid, 10'000, [](const std::string& text) {
    const Json json = parse_json(text);
    if (parse_json(json.text()) != json) FAIL("not the same after writing: " << text);
  });
  CHECK(taken > 500);
  CHECK(taken < 9'500);
}
